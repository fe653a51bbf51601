"""The OpenAPI document: what FastAPI derives from the routes, corrected where it is not true."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from rag_backend.api.shapes import ErrorEnvelope

_SAID = {
    400: "The request cannot be honoured as it stands",
    401: "No API key, or a wrong one",
    403: "The key lacks a right, or the backend does not answer to this name",
    404: "There is no such thing, or none that the key may see",
    409: "The state does not allow it",
    413: "The body or the file is larger than the limit",
    416: "The file has no such bytes",
    429: "Too many requests at once; `Retry-After` says when there should be room",
    502: "The model server failed",
    503: "Something that is needed is not there now: ask again",
    504: "The model server took too long",
    507: "The disk is full",
}

Responses = dict[int | str, dict[str, Any]]


def fails(*statuses: int) -> Responses:
    """OpenAPI's `responses` for failures of these statuses, all in the one envelope."""
    return {s: {"model": ErrorEnvelope, "description": _SAID[s]} for s in statuses}


EVERYWHERE = fails(401, 403)
"""What the guard may answer to anything that is not open."""
LOOKED_UP = fails(400, 404, 503)
"""Where something is named and the catalog is asked."""
CHANGED = LOOKED_UP | fails(409, 413, 507)
ASKED = fails(400, 404, 409, 413, 429, 502, 503, 504)
"""Questions and searches."""


def install(app: FastAPI) -> None:
    """Give the application a document without answers that it never gives, and with its keys."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _corrected(derive())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _corrected(document: dict[str, Any]) -> dict[str, Any]:
    for methods in document["paths"].values():
        for operation in methods.values():
            # FastAPI's own form for what failed its checks, which is never sent: see `failures`.
            operation["responses"].pop("422", None)
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}, {}]  # the latter where there are no API_KEYS
    return document
