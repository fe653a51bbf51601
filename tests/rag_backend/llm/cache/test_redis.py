"""Redis dying in the middle of anything: latency now and then, never an error, never garbage."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rag_backend.errors import CacheUnavailable, StartError
from rag_backend.llm.cache.redis import PREFIX, RedisBacking, pack, unpacked
from rag_backend.metrics import Metrics
from tests.ports import refusing
from tests.rag_backend.llm.cache.redis_server import PATIENCE, RedisServer

KEY = "a" * 64
VALUE = b"Twelve days. " * 100
REST = 5.0
SHORT = 0.2
"""Seconds for an exchange that nobody answers."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_the_rest(self) -> None:
        self.now += REST


@asynccontextmanager
async def opened(
    url: str, clock: Clock | None = None, metrics: Metrics | None = None
) -> AsyncIterator[RedisBacking]:
    """A backing that waits longer than a busy machine takes for an exchange."""
    backing = RedisBacking(
        url, metrics or Metrics(), ttl=60, rest=REST, clock=clock or Clock(), limit=PATIENCE
    )
    try:
        yield backing
    finally:
        await backing.aclose()


async def works(backing: RedisBacking) -> bool:
    await backing.put(KEY, VALUE)
    return await backing.get(KEY) == VALUE


async def test_killed_and_restarted(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    async with opened(redis_server.url, clock) as backing:
        assert await works(backing)
        redis_server.kill()
        assert not await works(backing)
        assert not await works(backing)
        with pytest.raises(CacheUnavailable, match="cannot be reached"):
            await backing.clear()
        redis_server.start()
        assert not await works(backing)  # it is left alone for a while
        clock.pass_the_rest()
        assert await backing.get(KEY) is None  # it is back, and has lost everything
        assert await works(backing)
    told = [r.message for r in caplog.records if "answer cache" in r.message]
    assert len(told) == 2, "once when it goes, once when it is back"
    assert "can be read again" in told[1]


def cache_counts(metrics: Metrics) -> list[str]:
    lines = metrics.exposition().decode().splitlines()
    return [line for line in lines if line.startswith("rag_cache")]


async def test_frozen(redis_server: RedisServer) -> None:
    clock, metrics = Clock(), Metrics()
    async with opened(redis_server.url, clock, metrics) as backing:
        assert await works(backing)
        redis_server.freeze()
        backing._limit = SHORT
        reading = await asyncio.gather(*(backing.get(KEY) for _ in range(50)))
        assert reading == [None] * 50
        failed = cache_counts(metrics)
        assert [await backing.get(KEY) for _ in range(50)] == [None] * 50
        assert cache_counts(metrics) == failed, "nobody waited for it again"
        redis_server.thaw()
        backing._limit = PATIENCE
        clock.pass_the_rest()
        assert await backing.get(KEY) == VALUE


async def test_one_request_at_a_time_tries_a_server_that_is_away(redis_server: RedisServer) -> None:
    clock, metrics = Clock(), Metrics()
    async with opened(redis_server.url, clock, metrics) as backing:
        redis_server.freeze()
        backing._limit = SHORT
        await backing.get(KEY)
        clock.pass_the_rest()
        await asyncio.gather(*(backing.get(KEY) for _ in range(20)))
        assert 'rag_cache_events_total{event="error"} 2.0' in metrics.exposition().decode()


async def test_a_full_server_is_still_read(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with opened(server.url) as backing:
            assert await works(backing)
            server.command("CONFIG", "SET", "maxmemory", "1")
            await backing.put("b" * 64, VALUE)
            assert await backing.get("b" * 64) is None
            assert await backing.get(KEY) == VALUE


async def test_a_read_only_replica_is_still_read(redis_server: RedisServer) -> None:
    clock = Clock()
    async with opened(redis_server.url, clock) as backing:
        assert await works(backing)
        redis_server.command("REPLICAOF", "127.0.0.1", "1")  # where nobody is
        await backing.put(KEY, b"new")
        assert await backing.get(KEY) == VALUE
        with pytest.raises(CacheUnavailable, match="refuses the command"):
            await backing.clear()
        redis_server.command("REPLICAOF", "NO", "ONE")
        clock.pass_the_rest()
        assert await works(backing)


async def test_a_wrong_password_is_named_and_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, "--requirepass", "right") as server:
        wrong = server.url.replace("//", "//:s3cret@")
        for url, said in ((server.url, "wants a password"), (wrong, "refuses the password")):
            async with opened(url) as backing:
                assert not await works(backing)
                with pytest.raises(CacheUnavailable, match=said) as failure:
                    await backing.clear()
                assert "s3cret" not in str(failure.value) + caplog.text
        async with opened(server.url.replace("//", "//:right@")) as backing:
            assert await works(backing)


async def test_nobody_there() -> None:
    with refusing() as url:
        async with opened(f"{url.replace('http', 'redis')}/0") as backing:
            assert not await works(backing)
    async with opened("redis://no-such-host.invalid:6379/0") as backing:
        assert not await works(backing)


async def test_another_kind_of_server() -> None:
    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.start_server(answer, sock=listener)
    async with server, opened(f"redis://127.0.0.1:{listener.getsockname()[1]}/0") as backing:
        assert not await works(backing)


PACKED = pack(KEY, VALUE)
GARBAGE = {
    "truncated": PACKED[:-5],
    "cut in the head": PACKED[:10],
    "empty": b"",
    "a flipped bit": PACKED[:-20] + bytes([PACKED[-20] ^ 1]) + PACKED[-19:],
    "another version": b"RAG0" + PACKED[4:],
    "another key's": pack("b" * 64, VALUE),
    "more behind": PACKED + b"x",
    "another program's": b'{"answer": 42}',
}


@pytest.mark.parametrize("which", GARBAGE)
async def test_garbage_is_a_miss_and_is_overwritten(which: str, redis_server: RedisServer) -> None:
    async with opened(redis_server.url) as backing:
        redis_server.command("SET", PREFIX + KEY, GARBAGE[which])
        assert await backing.get(KEY) is None
        assert await works(backing)


async def test_another_programs_list_is_overwritten_too(redis_server: RedisServer) -> None:
    async with opened(redis_server.url) as backing:
        redis_server.command("LPUSH", PREFIX + KEY, "x")
        assert await backing.get(KEY) is None
        assert await works(backing)


async def test_clearing_leaves_other_programs_keys(redis_server: RedisServer) -> None:
    redis_server.command("SET", "session:7", "theirs")
    async with opened(redis_server.url) as backing:
        for number in range(1200):
            await backing.put(f"{number:064x}", b"x")
        assert await backing.clear() == 1200
    assert b"theirs" in redis_server.command("GET", "session:7")


async def test_it_expires_in_the_server(redis_server: RedisServer) -> None:
    async with opened(redis_server.url) as backing:
        await backing.put(KEY, VALUE)
    left = int(redis_server.command("PTTL", PREFIX + KEY).strip(b":\r\n"))
    assert 0 < left <= 60_000


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_backend.llm.cache.redis.LARGEST", 1000)
    assert unpacked(KEY, pack(KEY, bytes(1001))) is None
    assert unpacked(KEY, pack(KEY, bytes(1000))) == bytes(1000)


def test_a_url_that_cannot_be_used() -> None:
    for options in ("nonsense=1&socket_timeout=x", "socket_timeout=x", "nonsense=1"):
        with pytest.raises(StartError, match="should look like") as failure:
            RedisBacking(f"redis://:s3cret@host:6379/0?{options}", Metrics(), ttl=1)
        assert "s3cret" not in str(failure.value)
