"""Threads for long work, each of which ends with its work.

A thread that has called torch on a CPU keeps helpers of its own for as long as it lives, and they
slow those of all others (docs/ARCHITECTURE.md). So what loads a model is no thread of a pool.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


class Threads:
    """Runs work for coroutines of one event loop, and knows what has not ended."""

    def __init__(self) -> None:
        self._alive: list[threading.Thread] = []

    def join(self, seconds: float) -> bool:
        """Wait for all work to end; False when some does not: torch cannot be told to."""
        until = time.monotonic() + seconds
        for thread in self._alive:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._alive)

    async def run(self, name: str, work: Callable[[], T]) -> T:
        """What `work` returns or raises; it runs to its end even if nobody waits any more."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        # Both are emptied once they were read: a thread may still be on its way out when its
        # answer is used, and must not keep a model in memory that is unloaded then.
        waiting, outcome = [answer], list[tuple[T | None, Exception | None]]()

        def tell() -> None:
            found, error = outcome.pop()
            if not waiting or waiting[0].done():  # nobody waits any more
                return
            if error is not None:
                waiting[0].set_exception(error)
            else:
                waiting[0].set_result(found)  # type: ignore[arg-type]

        def body() -> None:
            nonlocal work
            try:
                outcome.append((work(), None))
            except Exception as error:  # noqa: BLE001 - handed over to who asked
                outcome.append((None, error))
            del work
            try:
                loop.call_soon_threadsafe(tell)
            except RuntimeError:  # the loop is closed: the server was stopped meanwhile
                log.debug("%s ended after the server", name)

        # A daemon: work that is stuck in a read must not outlive the server.
        thread = threading.Thread(target=body, name=name, daemon=True)
        self._alive = [one for one in self._alive if one.is_alive()] + [thread]
        thread.start()
        try:
            return await answer
        finally:
            waiting.clear()
