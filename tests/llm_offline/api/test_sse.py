"""Events on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from llm_offline.api.sse import DONE, KEEP_ALIVE, ended, event, with_keep_alive
from llm_offline.errors import ShuttingDown


async def _events(*events: bytes | Exception) -> AsyncIterator[bytes]:
    for one in events:
        if isinstance(one, Exception):
            raise one
        yield one


def test_an_event_is_one_line_to_every_client() -> None:
    text = "a\nb\r\nc\u2028d\u2029e\x85f\x00 Điều 😀"
    line = event({"text": text}).decode()
    assert line.startswith("data: {")
    assert line.splitlines() == [line[:-2], ""]
    assert json.loads(line[6:])["text"] == text
    assert "Điều 😀" in line


async def test_silence_is_filled_with_comments() -> None:
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"one"
        await go_on.wait()
        yield b"two"

    seen = []
    async for payload in with_keep_alive(slow(), seconds=0.01):
        seen.append(payload)
        if seen.count(KEEP_ALIVE) == 2:
            go_on.set()
    assert seen[:3] == [b"one", KEEP_ALIVE, KEEP_ALIVE]
    assert seen[-1] == b"two"


async def test_closing_it_closes_what_it_reads() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    stream = with_keep_alive(endless(), seconds=0.01)
    assert await anext(stream) == b"one"
    assert await anext(stream) == KEEP_ALIVE
    await stream.aclose()  # type: ignore[attr-defined]
    assert closed.is_set()


async def test_an_error_is_an_event_before_the_end() -> None:
    seen = [one async for one in ended(_events(b"one", ShuttingDown("bye")))]
    assert (seen[0], seen[-1]) == (b"one", DONE)
    assert json.loads(seen[1][6:])["error"]["message"] == "bye"


async def test_what_nobody_expected_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    seen = [one async for one in ended(_events(ValueError("a secret")))]
    assert b"a secret" not in b"".join(seen)
    assert seen[-1] == DONE
    assert "a secret" in caplog.text
