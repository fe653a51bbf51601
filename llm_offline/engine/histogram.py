"""Durations, counted as Prometheus wants them."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate


class Histogram:
    """How many durations were at most so many seconds."""

    BOUNDS = (
        *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
        *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
    )

    def __init__(self) -> None:
        self._counts = [0] * (len(self.BOUNDS) + 1)
        self.total = 0.0
        """Seconds in all."""

    def add(self, seconds: float, times: int = 1) -> None:
        """Count a duration, `times` times."""
        self._counts[bisect_left(self.BOUNDS, seconds)] += times
        self.total += seconds * times

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound, durations up to it); the last bound is `+Inf`."""
        return list(zip([*map(str, self.BOUNDS), "+Inf"], accumulate(self._counts), strict=True))
