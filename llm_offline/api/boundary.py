"""The outermost layer of the server: ids on every response, no traceback in any.

Plain ASGI: Starlette's `BaseHTTPMiddleware` hides a client's disconnect.
"""

from __future__ import annotations

import hmac
import logging
import re
from uuid import uuid4

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_offline.errors import LLMOfflineError, NotFound, Unauthorized
from llm_offline.settings import Settings

log = logging.getLogger(__name__)

_GIVEN_ID = re.compile(r"^[\w.-]{1,100}$")


class Boundary:
    """Gives every response an `x-request-id` (the client's, if it sent one) and catches all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GIVEN_ID.match(given) else f"req_{uuid4().hex}"
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if not started:
                answer = _answer(LLMOfflineError("internal error; the server's log says why"))
                await answer(scope, receive, send_with_id)


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """This package's errors, and Starlette's own (no such path, wrong method), in the envelope."""
    if isinstance(error, LLMOfflineError):
        return _answer(error)
    if isinstance(error, HTTPException):
        told = NotFound(f"{request.method} {request.url.path}: {error.detail}; see /openapi.json")
        told.status = error.status_code
        return _answer(told)
    raise error


def _answer(error: LLMOfflineError) -> JSONResponse:
    return JSONResponse(error.envelope(), status_code=error.status, headers=error.headers())


async def require_key(request: Request) -> None:
    """Refuse a request without the API key, where one is set.

    Raises:
        Unauthorized: No key, or another one.
    """
    settings: Settings = request.app.state.serving.settings
    if settings.api_key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    wanted = settings.api_key.get_secret_value().encode()
    same = hmac.compare_digest(given.strip().encode(), wanted)
    if scheme.lower() != "bearer" or not same:
        raise Unauthorized("this server wants its key: send `Authorization: Bearer KEY`")
