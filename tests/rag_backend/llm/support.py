"""A provider that plays a script, and short ways to ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from rag_backend.errors import UpstreamUnavailable
from rag_backend.llm.breaker import Breaker, Circuit
from rag_backend.llm.gauging import Gauge, Gauged
from rag_backend.llm.hosts import Endpoint
from rag_backend.llm.provider import ChatRequest, Chunk, LLMProvider
from rag_backend.upstream import LOADING

ASK = ChatRequest(messages=({"role": "user", "content": "How many days of leave?"},))

Step = Chunk | Exception | float
"""A chunk to yield, an error to raise, or seconds to wait."""

FOREVER = 3600.0


def delta(**fields: Any) -> Chunk:
    """A chunk with one choice."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def finish(reason: str = "stop") -> Chunk:
    """The chunk that ends an answer."""
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


ROLE = delta(role="assistant", content="")


def saying(text: str) -> list[Step]:
    """A whole answer."""
    return [ROLE, delta(content=text), finish()]


class Scripted:
    """Plays one script a request, the last one again and again; counts what was asked."""

    def __init__(self, *scripts: Sequence[Step], name: str = "scripted") -> None:
        self._scripts = list(scripts)
        self._name = name
        self.requests: list[ChatRequest] = []
        self.open = 0

    @property
    def name(self) -> str:
        return self._name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
        self.requests.append(request)
        self.open += 1
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.open -= 1


async def collect(provider: LLMProvider, request: ChatRequest = ASK) -> list[Chunk]:
    """All chunks."""
    async with aclosing(provider.stream(request)) as chunks:
        return [chunk async for chunk in chunks]


def text_of(chunks: Sequence[Chunk]) -> str:
    """The text that the chunks carry."""
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(d.get("content") or "" for d in deltas)


async def text_before_error(provider: LLMProvider, error: type[Exception]) -> tuple[str, Exception]:
    """What was received before the error that must come, and the error."""
    received: list[Chunk] = []
    try:
        async with aclosing(provider.stream(ASK)) as chunks:
            async for chunk in chunks:
                received.append(chunk)
    except error as raised:
        return text_of(received), raised
    raise AssertionError(f"no {error.__name__} came")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def loading() -> UpstreamUnavailable:
    """What a model server says that is still reading its model."""
    error = UpstreamUnavailable("m is still loading", code=LOADING)
    error.host_failed = False
    return error


def endpoint(
    provider: LLMProvider, clock: Callable[[], float] = time.monotonic, threshold: int = 3
) -> Endpoint:
    """A host as the stack builds it, its interval 5 s."""
    circuit, gauge = Circuit(threshold, 5, clock), Gauge()
    return Endpoint(Breaker(Gauged(provider, gauge), circuit), circuit, gauge)
