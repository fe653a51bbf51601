"""Work that yields its results, in a task of its own: given up as a whole, wherever it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Generic, TypeVar

from llm_offline.tasks.writing import Writer

T = TypeVar("T")


class _End:
    """No more results."""


class Running(Generic[T]):
    """The results of a generator, as they come, whoever reads them.

    The generator runs in one task, since what it waits for inside cannot be cancelled from
    another one in an orderly way.
    """

    def __init__(self, writer: Writer, work: AsyncGenerator[T, None]) -> None:
        """`writer`: what the work asks; its open calls are freed with the work."""
        self._writer = writer
        self._results: asyncio.Queue[T | _End] = asyncio.Queue()
        self._task = asyncio.ensure_future(self._run(work))

    async def _run(self, work: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(work):
                async for result in work:
                    self._results.put_nowait(result)
        finally:
            await self._writer.free()
            self._results.put_nowait(_End())

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        result = await self._results.get()
        if isinstance(result, _End):
            await self._task  # raises what the work raised
            raise StopAsyncIteration
        return result

    async def aclose(self) -> None:
        """Give the work up; nothing of it runs any more when this returns."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
