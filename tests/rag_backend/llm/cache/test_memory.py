"""Least recently used answers go first."""

from __future__ import annotations

from rag_backend.llm.cache.memory import OVERHEAD, MemoryBacking
from rag_backend.metrics import Metrics


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def backing(metrics: Metrics | None = None, **limits: int) -> MemoryBacking:
    given = {"max_bytes": 2**20, "max_entries": 100} | limits
    return MemoryBacking(metrics or Metrics(), ttl=60, clock=Clock(), **given)


async def kept(memory: MemoryBacking, *keys: str) -> list[str]:
    return [key for key in keys if await memory.get(key) is not None]


async def test_by_number() -> None:
    memory = backing(max_entries=2)
    for key in "ab":
        await memory.put(key, b"x")
    await memory.get("a")
    await memory.put("c", b"x")
    assert await kept(memory, *"abc") == ["a", "c"]


async def test_by_bytes() -> None:
    memory = backing(max_bytes=3 * (OVERHEAD + 1000))
    for key in "abc":
        await memory.put(key, bytes(1000))
    assert await kept(memory, *"abc") == ["a", "b", "c"]
    await memory.put("d", bytes(1500))
    assert await kept(memory, *"abcd") == ["c", "d"]


async def test_what_is_too_large_replaces_nothing_but_its_own_old_value() -> None:
    memory = backing(max_bytes=OVERHEAD + 1000)
    await memory.put("a", bytes(1000))
    await memory.put("b", bytes(1001))
    assert await kept(memory, *"ab") == ["a"]
    await memory.put("a", bytes(1001))
    assert await kept(memory, "a") == []


async def test_by_age() -> None:
    clock = Clock()
    memory = MemoryBacking(Metrics(), ttl=60, max_bytes=2**20, max_entries=9, clock=clock)
    await memory.put("a", b"x")
    clock.now = 59.9
    assert await kept(memory, "a") == ["a"]
    clock.now = 60.0
    assert await kept(memory, "a") == []
    assert await memory.clear() == 0


async def test_the_sums_are_right() -> None:
    metrics = Metrics()
    memory = backing(metrics, max_entries=5)
    for number in range(20):
        await memory.put(str(number % 7), bytes(number))
    shown = metrics.exposition().decode()
    assert "rag_cache_entries 5.0" in shown
    assert f"rag_cache_bytes {sum(range(15, 20)) + 5 * OVERHEAD:.1f}" in shown
    assert await memory.clear() == 5
    assert "rag_cache_bytes 0.0" in metrics.exposition().decode()
