"""What happens around every request: an id on its response, no traceback in any.

Plain ASGI: Starlette's `BaseHTTPMiddleware` hides a client's disconnect. It is a middleware of the
application and not around it, where Starlette's own answer to an unexpected error would come first.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from uuid import uuid4

from fastapi import FastAPI, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_offline.api.sse import REQUEST_ID, unexpected
from llm_offline.errors import LLMOfflineError, NotFound, ShuttingDown, Unauthorized
from llm_offline.settings import Settings

log = logging.getLogger(__name__)

_GIVEN_ID = re.compile(r"[\w.-]{1,100}")


def install(app: FastAPI) -> None:
    """Give every response of `app` its id, and every failure OpenAI's envelope."""
    app.add_middleware(Boundary)
    app.add_exception_handler(LLMOfflineError, answer_error)
    app.add_exception_handler(HTTPException, answer_error)


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
        request_id = given if _GIVEN_ID.fullmatch(given) else f"req_{uuid4().hex}"
        REQUEST_ID.set(request_id)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:  # before all of its body was here
            return
        except asyncio.CancelledError:
            # The server stops and has waited long enough; there is nobody to pass this on to.
            told: LLMOfflineError = ShuttingDown("the server is shutting down")
        except Exception:
            log.exception("request %s failed", request_id)
            told = unexpected()
        else:
            return
        if not started:
            await _answer(told)(scope, receive, send_with_id)


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
