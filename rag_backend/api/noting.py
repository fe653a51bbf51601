"""What is left of a request when it is over: its line in the log, and the counters."""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import quote

from starlette.types import Scope

from rag_backend.metrics import Metrics
from rag_backend.notes import Notes

UNKNOWN = "unknown"
"""The route of every path that there is not: what a client made up must not become a label."""
_WATCHING = frozenset({"/health", "/health/ready", "/metrics"})
_LONGEST_PATH = 200

log = logging.getLogger("rag_backend.requests")


class RequestLog:
    """Counts and logs requests."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # What `labels` costs is paid once for each pair: routes are few, and so are statuses.
        self._requests: dict[tuple[str, int], Any] = {}
        self._seconds: dict[str, Any] = {}

    def note(self, scope: Scope, status: int, told: Notes) -> None:
        """The request is over."""
        seconds = time.monotonic() - told.began
        route = getattr(scope.get("route"), "path", UNKNOWN)
        self._count(route, status, seconds)
        if told.error is not None:
            self._metrics.errors.labels(told.error).inc()
        # Whoever watches over the server asks every few seconds.
        level = logging.DEBUG if route in _WATCHING else logging.INFO
        if not log.isEnabledFor(level):
            return
        method = scope["method"]
        fields = {"method": method, "route": route, "status": status}
        fields["total_ms"] = round(1000 * seconds, 1)
        if route == UNKNOWN:  # quoted: a line break in it would make a line of its own
            fields["path"] = quote(scope["path"])[:_LONGEST_PATH]
        fields |= told.fields()
        # Not `log.log`, which looks for the line of code that logs.
        record = log.makeRecord(
            log.name, level, __file__, 0, "%s %s %d", (method, route, status), None
        )
        record.fields = fields
        log.handle(record)

    def _count(self, route: str, status: int, seconds: float) -> None:
        counter = self._requests.get((route, status))
        if counter is None:
            counter = self._metrics.requests.labels(route, str(status))
            self._requests[route, status] = counter
        counter.inc()
        histogram = self._seconds.get(route)
        if histogram is None:
            histogram = self._seconds[route] = self._metrics.request_seconds.labels(route)
        histogram.observe(seconds)
