"""Something expensive, made when it is first wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """Makes its value once; a failed attempt is repeated for the next caller."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._value: T | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> T:
        """The value; raises what making it raises."""
        async with self._lock:
            if self._value is None:
                self._value = await self._make()
            return self._value
