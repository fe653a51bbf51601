"""What is learnt of one request on its way, for its line in the log.

Whoever knows something writes it into `notes()`; nothing is handed through the layers for it.
Tasks and threads that a request starts see the same notes.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

DEFECT = "defect"
"""The `error` of a request that failed as nobody expected."""
_SECONDS = ("first_token", "retrieval", "condense", "waited")
_COUNTS = ("tokens_in", "tokens_out", "passages")
_WORDS = ("provider", "model", "store", "grounding", "cache", "error")


@dataclass(slots=True)
class Notes:
    """One request. No text of a question, a document or an answer belongs here, and no name.

    Attributes:
        began: By `time.monotonic`.
        first_token: Seconds from the request's beginning to the first content.
        retrieval, condense, waited: Seconds that searching, condensing and the queue took.
        store: The vector store's id.
        cache: How the answer cache served it: hit, miss, shared, bypass.
        route: What a router decided, and why (`x-route`).
        retries: Times that an upstream was asked again.
        fallbacks: Providers that failed before one answered.
        error: Class of the error that the client got.
    """

    request_id: str = ""
    began: float = field(default_factory=time.monotonic)
    provider: str | None = None
    model: str | None = None
    store: str | None = None
    grounding: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    passages: int | None = None
    first_token: float | None = None
    retrieval: float | None = None
    condense: float | None = None
    waited: float | None = None
    cache: str | None = None
    route: str | None = None
    retries: int = 0
    fallbacks: tuple[str, ...] = ()
    error: str | None = None

    def fields(self) -> dict[str, Any]:
        """What is known, as fields of the log's line; times in milliseconds (`…_ms`)."""
        found: dict[str, Any] = {}
        for name in _WORDS + _COUNTS:
            value = getattr(self, name)
            if value is not None:
                found[name] = value
        for name in _SECONDS:
            value = getattr(self, name)
            if value is not None:
                found[f"{name}_ms"] = round(1000 * value, 1)
        if self.route is not None:
            found["route_decision"] = self.route
        if self.retries:
            found["retries"] = self.retries
        if self.fallbacks:
            found["fallbacks"] = self.fallbacks
        return found


_current: ContextVar[Notes | None] = ContextVar("rag_backend_notes", default=None)


def begin(request_id: str) -> Notes:
    """Notes for a request that begins now, seen by all that is done for it."""
    fresh = Notes(request_id)
    _current.set(fresh)
    return fresh


def notes() -> Notes:
    """The request's notes; outside a request, notes that nobody reads."""
    return _current.get() or Notes()


def request_id() -> str:
    """The id of the request that is being served, "" outside of one."""
    current = _current.get()
    return "" if current is None else current.request_id
