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
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_backend.api.failures import stopping, unexpected
from rag_backend.api.guarding import Guard
from rag_backend.api.noting import RequestLog
from rag_backend.api.parts import parts_of
from rag_backend.errors import RAGError, TooLarge
from rag_backend.metrics import Metrics
from rag_backend.notes import DEFECT, begin

_MAX_JSON_MB = 32
"""Largest body in MiB, file uploads aside."""
_CLIENT_CLOSED = 499  # nginx's number for it; nobody sees it but the log and the metrics
_REQUEST_ID = re.compile(r"[\w.-]{1,128}")

log = logging.getLogger("rag_backend.requests")


class RequestMiddleware:
    """One layer for everything that every request gets."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], metrics: Metrics) -> None:
        self._app = app
        self._guard = Guard(keys)
        self._log = RequestLog(metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        told, begun, status = begin(request_id), False, 500

        async def send_with_id(message: Message) -> None:
            nonlocal begun, status
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            refused = self._refusal(scope, headers)
            if refused is not None:
                told.error = type(refused).__name__
                await _refuse(refused)(scope, receive, send_with_id)
            else:
                await self._app(scope, _bounded(scope, receive), send_with_id)
        except ClientDisconnect:
            status = _CLIENT_CLOSED
        except asyncio.CancelledError:
            # The server stops and has waited long enough; there is nobody to pass this on to.
            if not begun:
                await _refuse(stopping())(scope, receive, send_with_id)
        except Exception:
            told.error = DEFECT
            log.exception("request %s failed", request_id)  # its line has the route
            if not begun:
                await _refuse(unexpected())(scope, receive, send_with_id)
        finally:
            self._log.note(scope, status, told)

    def _refusal(self, scope: Scope, headers: Headers) -> RAGError | None:
        refused = self._guard.refusal(scope["path"], headers)
        if refused is not None:
            return refused
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > _most_bytes(scope):
            return TooLarge(_too_large(scope))
        return None


def _refuse(error: RAGError) -> JSONResponse:
    return JSONResponse(error.envelope(), error.client_status, error.headers())


def _request_id(headers: Headers) -> str:
    """The client's own id where it is harmless to repeat, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Count a body that came without a length."""
    most, size = _most_bytes(scope), 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            # The one kind of exception that FastAPI lets through while it reads a body.
            raise HTTPException(413, _too_large(scope))
        return message

    return counted


def _takes_files(scope: Scope) -> bool:
    return str(scope["path"]).rstrip("/") == "/v1/files"


def _most_bytes(scope: Scope) -> int:
    if _takes_files(scope):
        # One more for what a multipart body has around the file; the file itself is counted later.
        return (parts_of(scope["app"]).settings.max_file_mb + 1) * 2**20
    return _MAX_JSON_MB * 2**20


def _too_large(scope: Scope) -> str:
    if _takes_files(scope):
        limit = parts_of(scope["app"]).settings.max_file_mb
        return f"The file is larger than MAX_FILE_MB={limit}: split it, or raise the limit."
    return f"The body is larger than {_MAX_JSON_MB} MiB."
