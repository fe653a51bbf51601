"""Calls in a free text, from a model's words to what a client gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from llm_offline.app import create_app
from llm_offline.engine.speculation import PromptLookup
from llm_offline.settings import Settings
from tests.llm_offline.puppets import END, PuppetLoader

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"type": "function", "function": {"name": "fine"}}],
    "temperature": 0,
}


class Served:
    """A server in this process that says what it is told."""

    def __init__(self, client: httpx.AsyncClient, loader: PuppetLoader) -> None:
        self._client, self._loader = client, loader

    def say(self, words: str, *, ends: bool) -> None:
        for token in [*map(ord, words), *([END] if ends else [])]:
            self._loader.networks["puppet"].steps.put(token)

    async def answer(self, words: str, *, ends: bool = True, **more: Any) -> httpx.Response:
        self.say(words, ends=ends)
        return await self._client.post(CHAT, json=ASKED | more)

    async def finished(self) -> dict[str, int]:
        lines = (await self._client.get("/metrics")).text.splitlines()
        found = [line for line in lines if line.startswith("llm_offline_requests_total{")]
        return {line.split('"')[1]: int(float(line.split()[-1])) for line in found}


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    # A puppet says one token at a time.
    monkeypatch.setattr(PromptLookup, "guess", lambda self, rows: [])
    loader = PuppetLoader()
    app, parts = create_app(Settings(_env_file=None, model="puppet"), loader)
    parts.serving.start()
    async with asyncio.timeout(60):
        while parts.serving.state != "ready":
            await asyncio.sleep(0.005)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=60) as client:
        yield Served(client, loader)
    parts.stop()
    loader.networks["puppet"].say("")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("words", "is_call"),
    [
        ('{"name": "fine", "parameters": {"x": "\\ud83d"}}', True),
        ('{"name": "fine", "parameters": {"x": NaN}}', False),
        ('{"name": "fine", "parameters": {"x": 1e999}}', False),
        ('{"name": ["fine"], "parameters": {}}', False),
        ('{"name": {"a": "fine"}, "parameters": {}}', False),
    ],
)
async def test_what_looks_like_a_call(
    served: Served, words: str, is_call: bool, stream: bool
) -> None:
    answer = await served.answer(words, stream=stream)
    assert answer.status_code == 200
    lines = [line for line in answer.text.split("\n") if line]
    if stream:
        assert lines.pop() == "data: [DONE]"
    read = [json.loads(line.removeprefix("data: ")) for line in lines]
    (*_, last) = [one["choices"][0] for one in read]
    said = [one["choices"][0]["delta" if stream else "message"] for one in read]
    calls = [call["function"] for one in said for call in one.get("tool_calls", [])]
    assert last["finish_reason"] == ("tool_calls" if is_call else "stop")
    if is_call:
        assert [json.loads(call["arguments"]) for call in calls] == [
            {"x": "\N{REPLACEMENT CHARACTER}"}
        ]
    else:
        assert not calls
        assert "".join(one.get("content") or "" for one in said) == words


async def test_a_text_that_ends_with_its_one_call_was_not_cancelled(served: Served) -> None:
    words = '{"name": "fine", "parameters": {}}'
    answer = await served.answer(words, ends=False, parallel_tool_calls=False)
    assert answer.json()["choices"][0]["finish_reason"] == "tool_calls"
    served.say("; and so on", ends=True)  # the step that was under way
    async with asyncio.timeout(60):
        while not sum((await served.finished()).values()):
            await asyncio.sleep(0.005)
    assert await served.finished() == {"stop": 1, "length": 0, "cancelled": 0, "error": 0}
