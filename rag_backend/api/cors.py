"""Which web pages may call this backend from a browser, and what their scripts may see."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from rag_backend.api.middleware import id_of

_SHOWN = ("x-request-id", "x-cache", "x-route", "age", "retry-after", "openai-poll-after-ms")


class Cors(CORSMiddleware):
    """Starlette's, outside the guard: a preflight brings no key, and refusals are to be readable.

    Keys come in a header that a page's own script sets, so no browser credentials are involved.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=_SHOWN,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """See CORSMiddleware; with an id, as every response has one."""
        response = super().preflight_response(request_headers)
        response.headers["x-request-id"] = id_of(request_headers)
        return response
