"""Requests that come while a model is being loaded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import uvicorn

from llm_offline.api import sse, waiting
from llm_offline.api.waiting import preferred_wait
from llm_offline.app import create_app
from llm_offline.listening import listen
from llm_offline.serving import Serving
from llm_offline.settings import Settings
from tests.llm_offline.puppets import PuppetLoader

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}
PATIENCE = 60


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def loader() -> PuppetLoader:
    loader = PuppetLoader()
    loader.gates["old"] = threading.Event()
    return loader


class Running:
    """A server in this process whose model comes when `release` is called."""

    def __init__(self, serving: Serving, loader: PuppetLoader, client: httpx.AsyncClient) -> None:
        self.serving, self.loader, self.client = serving, loader, client

    async def waits(self, count: int = 1) -> None:
        await _until(lambda: self.serving._waiting == count)

    async def release(self, text: str) -> None:
        self.loader.gates["old"].set()
        await _until(lambda: "old" in self.loader.networks)
        self.loader.networks["old"].say(text)


@pytest.fixture
async def running(loader: PuppetLoader, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(sse, "SILENCE", 0.05)
    monkeypatch.setattr(waiting, "SILENCE", 0.05)
    given: dict[str, Any] = {"model": "old", "api_key": "k", "max_queue": 1, "max_batch": 1}
    app, parts = create_app(Settings(_env_file=None, **given), loader)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    await _until(lambda: loader.loads)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    headers = {"authorization": "Bearer k"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE) as client:
        yield Running(parts.serving, loader, client)
    parts.stop()
    loader.gates["old"].set()
    for network in list(loader.networks.values()):
        network.say("")
    server.should_exit = True
    await running
    listener.close()
    await _until(lambda: not parts.has_threads())


async def test_a_plain_request_waits(running: Running) -> None:
    asking = asyncio.create_task(running.client.post(CHAT, json=HELLO))
    await running.waits()
    assert (await running.client.get("/health")).json()["status"] == "loading"
    await running.release("hello")
    answer = await asking
    assert answer.json()["choices"][0]["message"]["content"] == "hello"
    assert answer.content.startswith(b"{")


async def test_a_stream_gets_comments(running: Running) -> None:
    async with running.client.stream("POST", CHAT, json=HELLO | {"stream": True}) as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        assert await anext(lines) == ": keep-alive"
        await running.release("hello")
        rest = [line async for line in lines if line and not line.startswith(":")]
    assert rest[-1] == "data: [DONE]"
    assert sum("[DONE]" in line for line in rest) == 1
    assert '"content":"h"' in rest[1]


async def test_a_stream_that_is_refused_in_the_end(running: Running) -> None:
    """Its status was sent long before: the refusal is an event."""
    body = HELLO | {"stream": True, "tool_choice": "required"}
    async with running.client.stream("POST", CHAT, json=body) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        await running.release("")
        rest = [line async for line in lines if line and not line.startswith(":")]
    assert '"param":"tool_choice"' in rest[0]
    assert rest[1:] == ["data: [DONE]"]


@pytest.mark.parametrize("stream", [False, True])
async def test_those_who_would_rather_not_wait(running: Running, stream: bool) -> None:
    body = HELLO | {"stream": stream}
    answer = await running.client.post(CHAT, json=body, headers={"prefer": "wait=0"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "loading"
    assert int(answer.headers["retry-after"]) >= 1


async def test_the_wait_ends(
    loader: PuppetLoader, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = running.serving.settings.model_copy(update={"loading_wait": 0.2})
    monkeypatch.setattr(running.serving, "settings", short)
    answer = await running.client.post(CHAT, json=HELLO)
    assert answer.status_code == 503
    assert "old is still loading" in answer.json()["error"]["message"]
    streamed = await running.client.post(CHAT, json=HELLO | {"stream": True})
    assert '"code":"loading"' in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n")


async def test_as_many_wait_as_may(running: Running) -> None:
    asking = [asyncio.create_task(running.client.post(CHAT, json=HELLO)) for _ in range(2)]
    await running.waits(2)
    assert (await running.client.post(CHAT, json=HELLO)).status_code == 429
    await running.release("one")
    # Either may be the first: their prompts are written in different threads.
    (first,), (second,) = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    assert (await first).status_code == 200
    running.loader.networks["old"].say("two")
    assert (await second).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_clients_that_go_away_leave_their_place(running: Running, stream: bool) -> None:
    body = HELLO | {"stream": stream}
    asking = asyncio.create_task(running.client.post(CHAT, json=body))
    await running.waits()
    asking.cancel()
    await running.waits(0)
    await running.release("hello")
    answer = await running.client.post(CHAT, json=HELLO)
    assert answer.json()["choices"][0]["message"]["content"] == "hello"


async def test_nothing_is_done_for_strangers(running: Running) -> None:
    wrong = {"authorization": "Bearer wrong"}
    assert (await running.client.post(CHAT, json=HELLO, headers=wrong)).status_code == 401
    assert (await running.client.post(CHAT, content=b"{")).status_code == 400
    for path in ("/v1/models/load", "/v1/models/unload", "/validate-model"):
        assert (await running.client.post(path, json={}, headers=wrong)).status_code == 401


def test_what_prefer_says() -> None:
    assert preferred_wait("wait=0") == 0
    assert preferred_wait("respond-async, Wait = 12") == 12
    assert preferred_wait("") == preferred_wait("await=3") == float("inf")
