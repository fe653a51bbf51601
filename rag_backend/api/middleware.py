"""What happens around every request: its id, the guard, the body's size, counting and logging.

Plain ASGI: Starlette's BaseHTTPMiddleware would hide a client's disconnect from the routes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_backend.api.failures import respond, stopping, unexpected
from rag_backend.api.guarding import Guard
from rag_backend.api.limiting import BodyLimit, Interrupted
from rag_backend.api.noting import RequestLog
from rag_backend.api.rights import CALLER
from rag_backend.api.silence import sent
from rag_backend.errors import RAGError
from rag_backend.metrics import Metrics
from rag_backend.notes import DEFECT, begin

_CLIENT_CLOSED = 499  # nginx's number for it; nobody sees it but the log and the metrics
_REQUEST_ID = re.compile(r"[\w.-]{1,128}")

log = logging.getLogger("rag_backend.requests")


class RequestMiddleware:
    """One layer for everything that every request gets."""

    def __init__(
        self, app: ASGIApp, keys: Sequence[str], metrics: Metrics, limit: BodyLimit | None = None
    ) -> None:
        self._app = app
        self._guard = Guard(keys)
        self._limit = limit or BodyLimit()
        self._log = RequestLog(metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = id_of(headers)
        told, begun, status = begin(request_id), False, 500

        async def send_with_id(message: Message) -> None:
            nonlocal begun, status
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            try:
                await sent(send, message)
            except TimeoutError as error:  # it is connected and takes nothing
                raise ClientDisconnect from error

        try:
            refused = self._refusal(scope, headers)
            if refused is not None:
                told.error = type(refused).__name__
                await respond(refused)(scope, receive, send_with_id)
            else:
                bounded = self._limit.bounded(scope["path"], receive)
                await self._app(scope, bounded, send_with_id)
        except ClientDisconnect:
            status = _CLIENT_CLOSED
        except Interrupted as interrupted:  # while a body was read before the routes
            told.error = type(interrupted.error).__name__
            if not begun:
                await respond(interrupted.error)(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server stops and has waited long enough; there is nobody to pass this on to.
            if not begun:
                await respond(stopping())(scope, receive, send_with_id)
        except Exception:
            told.error = DEFECT
            log.exception("request %s failed", request_id)  # its line has the route
            if not begun:
                await respond(unexpected())(scope, receive, send_with_id)
        finally:
            self._log.note(scope, status, told)

    def _refusal(self, scope: Scope, headers: Headers) -> RAGError | None:
        try:
            scope[CALLER] = self._guard.admit(scope["path"], headers)
        except RAGError as error:
            return error
        return self._limit.refusal(scope["path"], headers)


def id_of(headers: Headers) -> str:
    """The client's own id where it is harmless to repeat, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
