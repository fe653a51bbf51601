"""Who may use the encoder next: a user's query never waits behind ingestion."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

_QUERIES_IN_A_ROW = 16
"""After so many queries one waiting batch of documents has its turn, or it would never end."""


class Turns:
    """A lock for `places` threads at once that lets queries go first, each kind in order."""

    def __init__(self, places: int = 1) -> None:
        self._free = places
        self._queries: deque[object] = deque()
        self._documents: deque[object] = deque()
        self._row = 0
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, *, urgent: bool) -> Iterator[None]:
        """Wait for a turn, and have it while the block runs; keep it short."""
        ticket = object()
        line = self._queries if urgent else self._documents
        with self._changed:
            line.append(ticket)
            try:
                self._changed.wait_for(lambda: self._free and self._next() is ticket)
            except BaseException:
                line.remove(ticket)
                self._changed.notify_all()
                raise
            line.popleft()
            self._free -= 1
            self._row = self._row + 1 if urgent else 0
            self._changed.notify_all()  # another place may be free for the next in line
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()

    @property
    def waiting(self) -> tuple[int, int]:
        """Queries and batches of documents in line."""
        with self._changed:
            return len(self._queries), len(self._documents)

    def _next(self) -> object:
        if self._queries and not (self._documents and self._row >= _QUERIES_IN_A_ROW):
            return self._queries[0]
        return self._documents[0]
