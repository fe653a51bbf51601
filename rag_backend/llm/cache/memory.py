"""Answers in this process: least recently used ones go first, by bytes as well as by number."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from rag_backend.metrics import Metrics

OVERHEAD = 400
"""Bytes that an entry takes beside its value, in CPython 3.11: key, tuple, table slots."""


class _Entry(NamedTuple):
    value: bytes
    expires: float


class MemoryBacking:
    """See Backing."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        ttl: float,
        max_bytes: int,
        max_entries: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ttl` and the clock in seconds. A value larger than `max_bytes` is not kept."""
        self._metrics = metrics
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0

    async def get(self, key: str) -> bytes | None:
        """See Backing."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= self._clock():
            self._remove(key, "expired")
            return None
        self._entries.move_to_end(key)
        return entry.value

    async def put(self, key: str, value: bytes) -> None:
        """See Backing."""
        if key in self._entries:
            self._remove(key, "replaced")
        if len(value) + OVERHEAD > self._max_bytes:
            self._metrics.cache_events.labels("too_large").inc()
            return
        self._entries[key] = _Entry(value, self._clock() + self._ttl)
        self._bytes += len(value) + OVERHEAD
        self._metrics.cache_events.labels("stored").inc()
        while self._bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self._remove(next(iter(self._entries)), "evicted")
        self._show()

    async def clear(self) -> int:
        """See Backing."""
        count = len(self._entries)
        self._entries.clear()
        self._bytes = 0
        self._show()
        return count

    async def check(self) -> None:
        """See Backing."""

    def served(self) -> float | None:
        """See Backing."""
        return None

    async def aclose(self) -> None:
        """See Backing."""

    def _remove(self, key: str, why: str) -> None:
        self._bytes -= len(self._entries.pop(key).value) + OVERHEAD
        self._metrics.cache_events.labels(why).inc()
        self._show()

    def _show(self) -> None:
        self._metrics.cache_bytes.set(self._bytes)
        self._metrics.cache_entries.set(len(self._entries))
