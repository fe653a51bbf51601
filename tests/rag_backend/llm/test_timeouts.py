"""The time limits, each against a server that stalls exactly there, and against a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rag_backend.errors import UpstreamTimeout
from rag_backend.llm.openai_compatible import OpenAICompatible
from rag_backend.llm.provider import LLMProvider
from rag_backend.llm.rows import ProviderRow
from rag_backend.llm.timeouts import TokenTimeouts, TotalTimeout
from tests.openai_server import OpenAIServer, Place, Reply
from tests.rag_backend.llm.support import (
    ASK,
    FOREVER,
    ROLE,
    Scripted,
    collect,
    delta,
    finish,
    saying,
    text_before_error,
    text_of,
)

SHORT, LONG = 0.15, 60.0


@pytest.fixture
async def upstream(server: OpenAIServer) -> AsyncIterator[OpenAICompatible]:
    row = ProviderRow("local", base_urls=(f"{server.url}/v1",), model="m")
    provider = OpenAICompatible(row, row.base_urls[0], connect_timeout=2)
    yield provider
    await provider.aclose()


@pytest.mark.parametrize("place", ["headers", "first_token"])
async def test_first_token_limit(
    upstream: OpenAICompatible, server: OpenAIServer, place: Place
) -> None:
    server.default = Reply(stall=place, comments=3)
    provider = TokenTimeouts(upstream, first_token=SHORT, idle=LONG)
    text, error = await text_before_error(provider, UpstreamTimeout)
    assert text == ""
    assert "0.15 s (LLM_FIRST_TOKEN_TIMEOUT)" in str(error)
    # What has come so far is let go; on a busy machine, that may be nothing.
    await asyncio.to_thread(server.wait_for, lambda s: all(c.finished.is_set() for c in s.chats))


@pytest.mark.parametrize("place", ["middle", "end"])
async def test_limit_between_tokens(
    upstream: OpenAICompatible, server: OpenAIServer, place: Place
) -> None:
    server.default = Reply(stall=place)
    provider = TokenTimeouts(upstream, first_token=LONG, idle=SHORT)
    text, error = await text_before_error(provider, UpstreamTimeout)
    assert text.startswith("Employees ")
    assert "0.15 s (LLM_IDLE_TIMEOUT)" in str(error)


@pytest.mark.parametrize("place", ["headers", "first_token", "middle", "end"])
async def test_total_limit(upstream: OpenAICompatible, server: OpenAIServer, place: Place) -> None:
    server.default = Reply(stall=place)
    _, error = await text_before_error(TotalTimeout(upstream, SHORT), UpstreamTimeout)
    assert "0.15 s (LLM_TOTAL_TIMEOUT)" in str(error)


def _timed(provider: LLMProvider) -> TokenTimeouts:
    return TokenTimeouts(provider, first_token=SHORT, idle=SHORT)


@pytest.mark.parametrize(
    "first",
    [
        delta(content="Twelve"),
        delta(reasoning_content="Let me see"),
        delta(tool_calls=[{"index": 0}]),
    ],
)
async def test_what_counts_as_a_first_token(first: dict[str, object]) -> None:
    script = Scripted([ROLE, first, FOREVER])
    _, error = await text_before_error(_timed(script), UpstreamTimeout)
    assert "LLM_IDLE_TIMEOUT" in str(error)
    assert script.open == 0


async def test_roles_alone_are_no_token() -> None:
    script = Scripted([ROLE, ROLE, FOREVER])
    _, error = await text_before_error(_timed(script), UpstreamTimeout)
    assert "LLM_FIRST_TOKEN_TIMEOUT" in str(error)
    assert script.open == 0


async def test_a_slow_reader_is_not_the_upstreams_fault() -> None:
    provider = TokenTimeouts(
        Scripted([delta(content="a"), delta(content="b"), finish()]), first_token=0.01, idle=0.01
    )
    stream = provider.stream(ASK)
    received = [await anext(stream)]
    clock = Scripted([0.05])
    await collect(clock)  # the reader is busy for longer than either limit
    received += [chunk async for chunk in stream]
    assert text_of(received) == "ab"


async def test_an_answer_in_time_passes_untouched() -> None:
    chunks = saying("Twelve days.")
    assert await collect(TotalTimeout(_timed(Scripted(chunks)), LONG)) == chunks
