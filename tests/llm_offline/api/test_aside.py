"""Work beside the event loop, for clients that may go away."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from llm_offline.api.aside import aside
from llm_offline.errors import ClientGone
from llm_offline.pool import Pool


class FakeRequest:
    """Its client goes away when `left` is set."""

    def __init__(self, pool: Pool) -> None:
        self.app = SimpleNamespace(state=SimpleNamespace(preparing=pool))
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}


async def test_a_burst_that_nobody_waits_for_holds_nobody_up() -> None:
    pool, gate, done = Pool(1, "preparing"), threading.Event(), list[int]()
    busy = asyncio.ensure_future(pool.run(gate.wait, 30))
    burst = [FakeRequest(pool) for _ in range(100)]
    asking = [
        asyncio.ensure_future(aside(one, done.append, n))  # type: ignore[arg-type]
        for n, one in enumerate(burst)
    ]
    staying = FakeRequest(pool)
    wanted = asyncio.ensure_future(aside(staying, lambda: done.append(-1)))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    for one in burst:
        one.left.set()
    for gone in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(gone, ClientGone)
    gate.set()
    assert await busy
    assert await wanted is None  # what the work returns
    assert done == [-1]
    pool.stop()


async def test_what_the_work_raises_comes_back() -> None:
    pool = Pool(1, "preparing")
    with pytest.raises(ZeroDivisionError):
        await aside(FakeRequest(pool), lambda: 1 / 0)  # type: ignore[arg-type]
    pool.stop()
