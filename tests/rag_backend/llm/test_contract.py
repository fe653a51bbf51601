"""What every provider promises, whoever it is and whatever is wrapped around it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from rag_backend.llm.balancing import Balanced
from rag_backend.llm.breaker import Breaker, Circuit
from rag_backend.llm.complete import complete
from rag_backend.llm.fallback import Fallback
from rag_backend.llm.gauging import Gauge, Gauged
from rag_backend.llm.provider import ChatRequest, Evidence, Grounding, LLMProvider
from rag_backend.llm.registry import Registry, build_registry
from rag_backend.llm.retrying import Retrying
from rag_backend.llm.routing import Named, Overflowing, Router, Routing, Side
from rag_backend.llm.share import Share
from rag_backend.llm.timeouts import TokenTimeouts, TotalTimeout
from rag_backend.patience import Patience
from rag_backend.settings import load_settings
from tests.openai_server import OpenAIServer, Place, Reply
from tests.rag_backend.llm.support import endpoint

ANSWER = "Employees have twelve days of annual leave. [1]"
REQUEST = ChatRequest(
    messages=({"role": "user", "content": "How many days of annual leave?"},),
    options={"temperature": 0, "max_tokens": 200},
    grounding=Grounding(
        question="How many days of annual leave?",
        language="en",
        passages=(Evidence(1, "handbook", "Employees have twelve days of annual leave.", 0.9),),
    ),
)

ROWS = ("openai", "local", "several-hosts", "from-file", "extractive")
WRAPPERS: dict[str, Callable[[LLMProvider], LLMProvider]] = {
    "token timeouts": lambda p: TokenTimeouts(p, first_token=60, idle=60),
    "total timeout": lambda p: TotalTimeout(p, 60),
    "retrying": lambda p: Retrying(p, Patience(attempts=2, total=60, loading=60)),
    "balanced": lambda p: Balanced([endpoint(p), endpoint(p)]),
    "breaker": lambda p: Breaker(p, Circuit(5, 5)),
    "gauged": lambda p: Gauged(p, Gauge()),
    "fallback": lambda p: Fallback([p, p]),
    "overflowing": lambda p: Overflowing(p, p, lambda _: None),
    "named": lambda p: Named(p, lambda _: None),
    "routing": lambda p: Routing(p.name, _router(), {"a": p, "b": p}),
}


def _router() -> Router:
    return Router(Side("a", None), Side("b", None), frozenset(), Share(0.5), lambda _: None)


@pytest.fixture
async def registry(server: OpenAIServer, tmp_path: Path) -> AsyncIterator[Registry]:
    """One provider of every kind, all of them answered by the scripted server."""
    server.default = Reply(ANSWER)
    table = {
        "from-file": {"base_url": server.url, "model": "m"},
        "several-hosts": {"base_url": [server.url, f"{server.url}/v1"]},
    }
    rows = tmp_path / "providers.json"
    rows.write_text(json.dumps({"providers": table}))
    settings = load_settings(
        openai_api_key="sk-test-0123456789",
        openai_base_url=server.url,
        local_llm_api_url=(server.url,),
        llm_providers=rows,
    )
    built = build_registry(settings)
    assert set(built.names()) == set(ROWS)  # a new row must come into this test
    yield built
    await built.aclose()


def _provider(registry: Registry, which: str) -> LLMProvider:
    if which in WRAPPERS:
        return WRAPPERS[which](registry.get_required("from-file"))
    return registry.get_required(which)


every_provider = pytest.mark.parametrize("which", [*ROWS, *WRAPPERS])


@every_provider
async def test_streams_one_whole_answer(registry: Registry, which: str) -> None:
    provider = _provider(registry, which)
    async with aclosing(provider.stream(REQUEST)) as stream:
        chunks = [chunk async for chunk in stream]

    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert all(chunk["provider"] == provider.name for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    with_choices = [chunk for chunk in chunks if chunk["choices"]]
    assert all(chunk["choices"][0]["index"] == 0 for chunk in with_choices)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in with_choices]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert len(with_choices) > 3  # streamed, not sent in one piece
    assert all("usage" not in chunk for chunk in with_choices)
    assert [chunk["choices"] for chunk in chunks[len(with_choices) :]] == [[]]
    usage = chunks[-1]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


@every_provider
async def test_folds_into_a_completion(registry: Registry, which: str) -> None:
    provider = _provider(registry, which)
    completion = await complete(provider, REQUEST)

    assert completion["object"] == "chat.completion"
    assert completion["provider"] == provider.name
    assert completion["model"]
    (choice,) = completion["choices"]
    said: dict[str, object] = {
        "role": "assistant",
        "content": ANSWER,
        "refusal": None,
        "annotations": [],
    }
    assert choice["message"] == said
    assert choice["finish_reason"] == "stop"
    assert completion["usage"]["completion_tokens"] > 0


@every_provider
async def test_can_be_closed_after_the_first_chunk(registry: Registry, which: str) -> None:
    stream = _provider(registry, which).stream(REQUEST)
    await anext(stream)
    await stream.aclose()
    assert await anext(stream, None) is None


@every_provider
async def test_a_name_of_its_own(registry: Registry, which: str) -> None:
    provider = _provider(registry, which)
    assert provider.name == (which if which in ROWS else "from-file")


@pytest.mark.parametrize("which", [name for name in [*ROWS, *WRAPPERS] if name != "extractive"])
@pytest.mark.parametrize("place", ["headers", "first_token", "middle"])
async def test_leaving_frees_the_upstream(
    registry: Registry, server: OpenAIServer, which: str, place: Place
) -> None:
    server.default = Reply(ANSWER, stall=place)

    async def read() -> None:
        async with aclosing(_provider(registry, which).stream(REQUEST)) as stream:
            async for _ in stream:
                pass

    reading = asyncio.create_task(read())
    await asyncio.to_thread(server.wait_for, lambda s: len(s.chats) == 1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await asyncio.to_thread(server.chats[0].disconnected.wait, 60)
    assert len(server.chats) == 1  # nobody asked again on behalf of a client that left
