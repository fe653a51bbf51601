"""The one interface of a place that keeps answers."""

from __future__ import annotations

from typing import Protocol


class Backing(Protocol):
    """Bytes under digests, for a time.

    It forgets when it likes and never fails an answer: what goes wrong is counted, logged, and
    looks like a miss. `clear` alone says so, because somebody relies on it.
    """

    async def get(self, key: str) -> bytes | None:
        """What was put under this key and has not expired; None where there is nothing."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Keep a value for the time to live that the backing was made with."""
        ...

    async def clear(self) -> int:
        """Forget everything; how many there were.

        Raises:
            CacheUnavailable: the server that keeps them did not do it.
        """
        ...

    async def check(self) -> None:
        """Raise CacheUnavailable where nothing can be kept now."""
        ...

    def served(self) -> float | None:
        """When it last did what it was asked, by `time.monotonic`; None: not since it failed."""
        ...

    async def aclose(self) -> None:
        """Let go of connections; what is kept in a server stays there."""
        ...
