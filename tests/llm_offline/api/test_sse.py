"""Events on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest

from llm_offline.api.sse import DONE, KEEP_ALIVE, EventStream, ended, event
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


class _Client:
    """The other side of a stream: what it was sent, and when it goes away."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.silences = 0
        self.heard = asyncio.Event()
        self.leaves = asyncio.Event()

    async def listen(self, stream: EventStream) -> None:
        await stream({"type": "http", "asgi": {}}, self._receive, self._send)

    async def _receive(self) -> MutableMapping[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        body = message.get("body", b"")
        self.silences += body == KEEP_ALIVE
        if body and body != KEEP_ALIVE:
            self.parts.append(body)
        if self.silences == 2:
            self.heard.set()


class _Freed:
    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1


async def test_silence_is_filled_with_comments() -> None:
    client, freed = _Client(), _Freed()

    async def slow() -> AsyncIterator[bytes]:
        yield b"one"
        await client.heard.wait()
        yield b"two"

    await client.listen(EventStream(slow(), freed, silence=0.01))
    assert client.parts == [b"one", b"two", DONE]
    assert freed.times == 1


async def test_what_it_reads_ends_when_the_client_goes_away() -> None:
    client, freed, ended_too = _Client(), _Freed(), asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            client.leaves.set()
            await asyncio.Event().wait()
        finally:
            ended_too.set()

    await client.listen(EventStream(endless(), freed))
    assert client.parts == [b"one"]
    assert ended_too.is_set()
    assert freed.times == 1


async def test_an_error_is_an_event_before_the_end() -> None:
    seen = [one async for one in ended(_events(b"one", ShuttingDown("bye")))]
    assert (seen[0], seen[-1]) == (b"one", DONE)
    assert json.loads(seen[1][6:])["error"]["message"] == "bye"


async def test_what_nobody_expected_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    seen = [one async for one in ended(_events(ValueError("a secret")))]
    assert b"a secret" not in b"".join(seen)
    assert seen[-1] == DONE
    assert "a secret" in caplog.text
