"""One cause is one line in the log, however many requests meet it."""

from __future__ import annotations

import logging

from rag_backend.errors import UpstreamError


class Telling:
    """The cause that one upstream's log line was last about."""

    def __init__(self) -> None:
        self._told: str | None = None

    def level(self, error: UpstreamError) -> int:
        """WARNING where the cause is new, else DEBUG; it counts as told."""
        # What follows the colon is the remedy, or the server's own words, which may vary.
        cause = str(error).partition(": ")[0]
        level = logging.DEBUG if error.told or cause == self._told else logging.WARNING
        self._told, error.told = cause, True
        return level

    def over(self) -> None:
        """The upstream answers: the next failure is news."""
        self._told = None


def severity(error: BaseException) -> int:
    """The level for a failure that something else makes up for."""
    told = isinstance(error, UpstreamError) and error.told
    return logging.DEBUG if told else logging.WARNING
