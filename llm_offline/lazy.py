"""Something expensive, made when it is first wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from llm_offline.errors import LLMOfflineError

_UNEXPECTED = "internal error: the server's log has the details"

T = TypeVar("T")


class Lazy(Generic[T]):
    """Makes its value once for all who ask; a failed attempt is repeated for the next who does."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self.value: T | None = None
        """None until it was made."""
        self.failure: str | None = None
        """Why the last attempt failed, if one did."""
        self._make = make
        self._making: asyncio.Task[T] | None = None

    @property
    def is_coming(self) -> bool:
        """Whether it is being made."""
        return self._making is not None

    def forget(self) -> T | None:
        """Make it anew for the next who asks; what there was, if anything."""
        value, self.value = self.value, None
        return value

    async def get(self) -> T:
        """The value; raises what making it raises.

        Whoever asks may go away: it is made all the same, and only once.
        """
        if self.value is not None:
            return self.value
        if self._making is None:
            self._making = asyncio.ensure_future(self._attempt())
        return await asyncio.shield(self._making)

    async def _attempt(self) -> T:
        self.failure = _UNEXPECTED  # unless more is known, or nothing failed
        try:
            self.value = await self._make()
            self.failure = None
            return self.value
        except LLMOfflineError as error:
            self.failure = str(error)
            raise
        finally:
            self._making = None
