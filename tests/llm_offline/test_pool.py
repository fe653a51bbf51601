"""Threads for short work."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llm_offline.errors import ShuttingDown
from llm_offline.pool import Pool


class Held:
    """A pool of one thread, which is busy until `gate` is set."""

    def __init__(self) -> None:
        self.pool = Pool(1, "held")
        self.gate = threading.Event()
        self.began = threading.Event()
        self.first = asyncio.ensure_future(self.pool.run(self._wait, 30.0))

    def _wait(self, seconds: float) -> bool:
        self.began.set()
        return self.gate.wait(seconds)

    async def until_busy(self) -> None:
        while not self.began.is_set():
            await asyncio.sleep(0.001)


async def test_what_is_given_up_before_it_has_begun_never_begins() -> None:
    held, done = Held(), list[int]()
    await held.until_busy()
    abandoned = [asyncio.ensure_future(held.pool.run(done.append, n)) for n in range(50)]
    wanted = asyncio.ensure_future(held.pool.run(done.append, 99))
    await asyncio.sleep(0)
    for one in abandoned:
        one.cancel()
    await asyncio.gather(*abandoned, return_exceptions=True)
    held.gate.set()
    await wanted
    assert done == [99]
    assert await held.first
    held.pool.stop()
    assert held.pool.join(30)


async def test_nobody_waits_for_a_pool_that_ends() -> None:
    held = Held()
    await held.until_busy()
    queued = asyncio.ensure_future(held.pool.run(print))
    cancelled = asyncio.ensure_future(held.pool.run(print))
    await asyncio.sleep(0)
    cancelled.cancel()
    held.pool.stop()
    for waiting in (held.first, queued, asyncio.ensure_future(held.pool.run(print))):
        with pytest.raises(ShuttingDown):
            await waiting
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert not held.pool.join(0)
    held.gate.set()
    assert held.pool.join(30)


async def test_what_work_raises_comes_back() -> None:
    pool = Pool(1, "work")
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 / 0)
    assert await pool.run(int, "12", base=3) == 5
    pool.stop()
