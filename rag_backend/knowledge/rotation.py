"""Fair turns: work moves in slices of chunks, so that a long file delays nobody for long."""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

from rag_backend.knowledge.jobs import Slice

TURN = 128
"""Chunks that one source gives before the next has its turn."""


class Source(Protocol):
    """Something that has chunks to be embedded and written: a file, or a store to be refilled."""

    @property
    def exhausted(self) -> bool:
        """Whether it has nothing more to give."""
        ...

    def take(self, most: int) -> list[Slice]:
        """Its next chunks, at most so many; never nothing, unless it is exhausted then."""
        ...


class Rotation:
    """Sources take turns, in the order in which they came. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: deque[Source] = deque()

    def add(self, source: Source) -> None:
        """It has its turn after those that are here."""
        with self._lock:
            self._sources.append(source)

    def take(self, most: int) -> tuple[list[Slice], list[Source]]:
        """At most so many chunks, a turn from each, and the sources that are exhausted by it."""
        taken: list[Slice] = []
        ended: list[Source] = []
        room = most
        while room > 0 and (source := self._next()) is not None:
            for part in source.take(min(TURN, room)):
                taken.append(part)
                room -= max(1, part.stop - part.start)
            if source.exhausted:
                ended.append(source)
            else:
                self.add(source)
        return taken, ended

    def _next(self) -> Source | None:
        with self._lock:
            return self._sources.popleft() if self._sources else None
