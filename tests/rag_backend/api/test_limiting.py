"""Clients that say no more: their request ends, and with it whatever it held."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from rag_backend.api import silence
from rag_backend.api.limiting import BodyLimit
from rag_backend.api.middleware import RequestMiddleware
from rag_backend.metrics import Metrics

SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "POST",
    "path": "/v1/embeddings",
    "headers": [(b"host", b"localhost")],
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "SILENCE", 0.02)


async def never() -> Message:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


def beginning(*messages: Message) -> Receive:
    waiting = iter(messages)

    async def receive() -> Message:
        return next(waiting, None) or await never()

    return receive


async def reading(scope: Scope, receive: Receive, _send: Send) -> None:
    await Request(scope, receive).body()


async def asked(app: Any, receive: Receive, send: Send) -> None:
    await RequestMiddleware(app, [], Metrics())({**SCOPE}, receive, send)


@pytest.mark.parametrize(
    "came", [(), ({"type": "http.request", "body": b"{", "more_body": True},)], ids=["none", "part"]
)
async def test_a_body_that_stops_coming(came: tuple[Message, ...]) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async with asyncio.timeout(60):
        await asked(reading, beginning(*came), send)
    assert sent[0]["status"] == 408
    assert b'"code":"body_timeout"' in sent[1]["body"]


async def test_after_its_body_a_client_may_say_nothing_for_long() -> None:
    receive = BodyLimit().bounded("/", beginning({"type": "http.request", "body": b"{}"}))
    assert (await receive())["body"] == b"{}"
    leaving = asyncio.ensure_future(receive())
    await asyncio.wait([leaving], timeout=0.1)
    assert not leaving.done()
    leaving.cancel()


async def test_an_answer_that_nobody_takes() -> None:
    left: list[bool] = []

    async def answering(_scope: Scope, _receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        except ClientDisconnect:
            left.append(True)
            raise

    async with asyncio.timeout(60):
        await asked(answering, never, lambda _: never())  # type: ignore[arg-type,return-value]
    assert left == [True]
