"""What every place that keeps answers promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from rag_backend.llm.cache.backing import Backing
from rag_backend.llm.cache.memory import MemoryBacking
from rag_backend.llm.cache.redis import RedisBacking
from rag_backend.metrics import Metrics
from tests.rag_backend.llm.cache.redis_server import RedisServer

KEY, OTHER = "0" * 64, "f" * 64
VALUE = "Nhân viên có mười hai ngày phép.\n".encode() * 50 + b"\x00\xff"
PATIENCE = 60

Make = Callable[..., Backing]


@pytest.fixture(params=["memory", "redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Backings of one kind; those in Redis share a server."""
    made: list[Backing] = []
    url = ""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url

    def make(ttl: float = 60) -> Backing:
        backing: Backing = (
            RedisBacking(url, Metrics(), ttl=ttl, limit=30)
            if url
            else MemoryBacking(Metrics(), ttl=ttl, max_bytes=2**20, max_entries=100)
        )
        made.append(backing)
        return backing

    yield make
    for backing in made:
        await backing.aclose()


async def test_gives_back_what_was_put(make: Make) -> None:
    backing = make()
    assert await backing.get(KEY) is None
    await backing.put(KEY, VALUE)
    assert await backing.get(KEY) == VALUE
    assert await backing.get(OTHER) is None


async def test_the_last_one_put_counts(make: Make) -> None:
    backing = make()
    await backing.put(KEY, b"old")
    await backing.put(KEY, b"new")
    assert await backing.get(KEY) == b"new"
    assert await backing.clear() == 1


async def test_forgets_after_its_time(make: Make) -> None:
    backing = make(ttl=0.05)
    await backing.put(KEY, VALUE)
    async with asyncio.timeout(PATIENCE):
        while await backing.get(KEY) is not None:
            await asyncio.sleep(0.01)


async def test_clears_everything_and_counts_it(make: Make) -> None:
    backing = make()
    for number in range(70):
        await backing.put(f"{number:064x}", VALUE)
    assert await backing.clear() == 70
    assert await backing.clear() == 0
    assert await backing.get(f"{3:064x}") is None


async def test_many_at_once(make: Make) -> None:
    backing = make()
    keys = [f"{number:064x}" for number in range(90)]
    await asyncio.gather(*(backing.put(key, key.encode()) for key in keys))
    found = await asyncio.gather(*(backing.get(key) for key in keys))
    assert found == [key.encode() for key in keys]


async def test_a_reader_that_was_cancelled_mixes_nothing_up(make: Make) -> None:
    backing = make()
    await backing.put(KEY, b"one's answer")
    await backing.put(OTHER, b"another's answer")
    for turns in range(12):
        reading = asyncio.ensure_future(backing.get(KEY))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert await backing.get(OTHER) == b"another's answer"
