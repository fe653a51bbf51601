"""Work in threads: never left half done behind a task's back, or never waited for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finished(action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run in a thread; when cancelled, wait for its end, so that nothing is written after it."""
    return await _to_its_end(asyncio.to_thread(action, *args, **kwargs))


class Threads:
    """Threads of somebody's own, who takes none that others wait for, and waits for no other."""

    def __init__(self, most: int, name: str = "indexing") -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix=name)

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


async def apart(name: str, action: Callable[[], T]) -> T:
    """Run in a thread that does not keep the process: a model hub's retries can take minutes."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # whoever waits may go; the thread will not

    def run() -> None:
        try:
            done.set_result(action())
        except Exception as error:  # noqa: BLE001 - raised where the result is waited for
            done.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(done)
