"""What a request's headers say about who asks and how fresh the answer has to be."""

from __future__ import annotations

from starlette.datastructures import Headers

from rag_backend.answering.caching import Freshness


def asker(headers: Headers, *, keyed: bool) -> str:
    """The API key, which the guard has checked; "" where this backend has none.

    Without API_KEYS, whatever a client sends as one is checked by nobody and tells nobody apart.
    """
    return headers.get("authorization", "").partition(" ")[2].strip() if keyed else ""


def freshness(headers: Headers) -> Freshness:
    """`Cache-Control` of a request, as far as it concerns an answer (RFC 9111, section 5.2.1)."""
    listed = headers.get("cache-control", "").lower().replace(" ", "").split(",")
    if "no-store" in listed:
        return "private"
    return "fresh" if {"no-cache", "max-age=0"} & {*listed} else "any"
