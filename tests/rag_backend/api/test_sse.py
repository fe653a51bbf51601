"""Streams of events, driven as a server would drive them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from rag_backend.api.sse import event_stream
from rag_backend.errors import UpstreamBroken, UpstreamUnavailable

Event = dict[str, Any]


class Client:
    """The other end: reads what is sent, and can leave."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.sent: list[Any] = []
        self.got = asyncio.Event()
        self.scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        self.request = Request(self.scope, self.receive)

    async def receive(self) -> Event:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        self.got.set()

    async def read(self, events: AsyncGenerator[Event, None], silence: float = 60) -> None:
        response = await event_stream(self.request, events, silence)
        await response(self.scope, self.receive, self.send)

    @property
    def lines(self) -> list[str]:
        body = b"".join(message.get("body", b"") for message in self.sent)
        assert body.endswith(b"\n\n")
        return body.decode().removesuffix("\n\n").split("\n\n")


class Source:
    """Events that wait for a signal, and tell whether they were closed."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()

    async def events(self, *first: Event) -> AsyncGenerator[Event, None]:
        try:
            for event in first:
                yield event
            self.asked.set()
            await self.go.wait()
            yield {"last": True}
        finally:
            await asyncio.sleep(0)  # cleaning up may itself wait
            self.closed.set()


@pytest.fixture
async def client() -> Client:
    return Client()


@pytest.fixture
async def source() -> Source:
    return Source()


async def test_events_and_the_end(client: Client, source: Source) -> None:
    source.go.set()
    await client.read(source.events({"text": "Điều\n5"}))
    start = client.sent[0]
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert start["status"] == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["x-accel-buffering"] == "no"
    assert headers["cache-control"] == "no-cache"
    assert "content-encoding" not in headers
    assert client.lines == ['data: {"text":"Điều\\n5"}', 'data: {"last":true}', "data: [DONE]"]
    assert source.closed.is_set()


async def test_no_event_at_all(client: Client) -> None:
    async def nothing() -> AsyncGenerator[Event, None]:
        return
        yield {}

    await client.read(nothing())
    assert client.lines == ["data: [DONE]"]


async def test_an_error_before_the_first_event_is_raised(client: Client) -> None:
    async def failing() -> AsyncGenerator[Event, None]:
        raise UpstreamUnavailable("The model server is away.")
        yield {}

    with pytest.raises(UpstreamUnavailable):
        await client.read(failing())
    assert client.sent == []


async def test_an_error_later_is_an_event(client: Client) -> None:
    async def cut() -> AsyncGenerator[Event, None]:
        yield {"text": "a"}
        raise UpstreamBroken("The stream was cut.")

    await client.read(cut())
    _, failed, done = client.lines
    error = json.loads(failed.removeprefix("data: "))["error"]
    assert error["message"] == "The stream was cut."
    assert error.keys() == {"message", "type", "param", "code"}
    assert done == "data: [DONE]"


async def test_a_defect_shows_no_traceback(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async def defective() -> AsyncGenerator[Event, None]:
        yield {"text": "a"}
        raise KeyError("secret")

    await client.read(defective())
    assert "Internal error" in client.lines[1]
    assert "secret" not in "".join(client.lines)
    assert "KeyError" in caplog.text


async def test_silence_is_broken_by_comments(client: Client, source: Source) -> None:
    reading = asyncio.create_task(client.read(source.events({"text": "a"}), silence=0.001))
    while len(client.sent) < 5:
        client.got.clear()
        await client.got.wait()
    source.go.set()
    await reading
    assert client.lines[1] == ": still working"
    assert {line[:5] for line in client.lines} == {"data:", ": sti"}
    assert client.lines[-2:] == ['data: {"last":true}', "data: [DONE]"]


async def test_silence_before_the_first_event(client: Client, source: Source) -> None:
    reading = asyncio.create_task(client.read(source.events(), silence=0.001))
    await client.got.wait()
    source.go.set()
    await reading
    assert client.lines[0] == ": still working"
    assert client.lines[-2:] == ['data: {"last":true}', "data: [DONE]"]


async def test_leaving_before_the_first_event(client: Client, source: Source) -> None:
    reading = asyncio.create_task(client.read(source.events()))
    await source.asked.wait()
    client.gone.set()
    with pytest.raises(ClientDisconnect):
        await reading
    assert source.closed.is_set()


async def test_leaving_in_the_middle(client: Client, source: Source) -> None:
    reading = asyncio.create_task(client.read(source.events({"text": "a"})))
    await source.asked.wait()
    client.gone.set()
    with pytest.raises(ClientDisconnect):
        await reading
    assert source.closed.is_set()


async def test_the_server_stops(client: Client, source: Source) -> None:
    reading = asyncio.create_task(client.read(source.events({"text": "a"})))
    await source.asked.wait()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert '"code":"stopping"' in client.lines[-2]
    assert client.lines[-1] == "data: [DONE]"
    assert source.closed.is_set()


async def test_leaving_while_it_is_being_sent_to(client: Client, source: Source) -> None:
    async def full(_message: Any) -> None:
        client.gone.set()
        await asyncio.Event().wait()  # the socket's buffer never empties

    response = await event_stream(client.request, source.events({"text": "a"}))
    with pytest.raises(ClientDisconnect):
        await response(client.scope, client.receive, full)
    assert source.closed.is_set()
