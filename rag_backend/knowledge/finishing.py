"""Work in threads that is never left half done behind a task's back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finished(action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run in a thread; when cancelled, wait for its end, so that nothing is written after it."""
    return await _to_its_end(asyncio.to_thread(action, *args, **kwargs))


class Threads:
    """Threads of the write path's own: it must not take those that requests wait for."""

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="indexing")

    async def run(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `finished`, in one of these threads."""
        work = partial(action, *args, **kwargs)
        return await _to_its_end(asyncio.get_running_loop().run_in_executor(self._pool, work))

    def close(self) -> None:
        """Wait for what runs."""
        self._pool.shutdown()


async def _to_its_end(work: Awaitable[T]) -> T:
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
