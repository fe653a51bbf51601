"""A few threads for one kind of short work, apart from those of every other kind.

What is done by the minute (embedding, loading) must not hold up what takes milliseconds (writing a
prompt), so nothing here uses the threads that asyncio has for all.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, Protocol, TypeVar

from llm_offline.errors import ShuttingDown

P = ParamSpec("P")
T = TypeVar("T")


class Aside(Protocol):
    """Runs work beside the event loop; `Pool.run` is one, `asyncio.to_thread` another."""

    async def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns or raises."""
        ...


class Pool:
    """Runs work for coroutines, first come, first served."""

    def __init__(self, count: int, name: str) -> None:
        """`count` threads, which begin when they are needed."""
        self._threads: list[threading.Thread] = []
        self._awaited: set[asyncio.Future[Any]] = set()
        self._stopped = False
        self._executor = ThreadPoolExecutor(
            count, name, initializer=lambda: self._threads.append(threading.current_thread())
        )

    async def run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns or raises; if it is given up before it has begun, it never begins.

        Raises:
            ShuttingDown: `stop` was called, perhaps meanwhile.
        """
        self._refuse_if_stopped()
        future = asyncio.wrap_future(self._executor.submit(work, *args, **kwargs))
        self._awaited.add(future)
        try:
            return await future
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # it was `stop`
                self._refuse_if_stopped()
            raise
        finally:
            self._awaited.discard(future)

    def stop(self) -> None:
        """Begin nothing any more, and let nobody wait for what runs: it ends when it ends."""
        self._stopped = True
        for future in self._awaited:
            future.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self, seconds: float) -> bool:
        """After `stop`: wait for the threads to end; False when one does not."""
        until = time.monotonic() + seconds
        for thread in list(self._threads):
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _refuse_if_stopped(self) -> None:
        if self._stopped:
            raise ShuttingDown("the server is shutting down") from None
