"""From a generation to a reply: whole, or as events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llm_offline.api.sse import EventStream, event
from llm_offline.engine.interface import FinishReason, Generation
from llm_offline.serving import Ready, Serving

T = TypeVar("T")
CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody is there to read it, but logs and tests are


@dataclass(frozen=True, slots=True)
class Whole:
    """A text that has ended."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason

    @property
    def usage(self) -> dict[str, int]:
        """OpenAI's `usage`."""
        return usage(self.prompt_tokens, self.completion_tokens)


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk of one reply repeats."""

    id: str
    object: str
    created: int
    model: str

    @classmethod
    def new(cls, prefix: str, kind: str, model: str) -> Head:
        """A fresh id such as `chatcmpl-…`."""
        return cls(f"{prefix}-{uuid4().hex}", kind, int(time.time()), model)

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A reply's, or a chunk's, JSON."""
        return {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }


def serving_of(request: Request) -> Serving:
    """The process's model."""
    serving: Serving = request.app.state.serving
    return serving


def ready(request: Request) -> Ready:
    """The loaded model and its engine.

    Raises:
        Loading, ShuttingDown: See `Serving.ready`.
    """
    return serving_of(request).ready()


def usage(prompt: int, completion: int) -> dict[str, int]:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


async def reply(
    request: Request, generation: Generation, shape: Callable[[Whole], dict[str, Any]]
) -> Response:
    """The whole text as JSON; given up when the client goes away."""
    try:
        whole = await _unless_gone(request, _fold(generation))
    finally:
        await generation.aclose()
    if whole is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return JSONResponse(shape(whole))


def stream(
    generation: Generation,
    head: Head,
    choice: Callable[[str, FinishReason | None], dict[str, Any]],
    *,
    opening: dict[str, Any] | None,
    include_usage: bool,
) -> EventStream:
    """The text as events.

    Args:
        generation: Where the text comes from.
        head: What each chunk repeats.
        choice: `choices[0]` for some text, and for the end.
        opening: `choices[0]` of a first chunk, before any text.
        include_usage: Add null usage to each chunk, and a last one with the counts.
    """
    no_usage = {"usage": None} if include_usage else {}

    async def events() -> AsyncIterator[bytes]:
        if opening is not None:
            yield event(head.chunk([opening], **no_usage))
        produced = 0
        async for delta in generation:
            produced = delta.completion_tokens
            if delta.text:
                yield event(head.chunk([choice(delta.text, None)], **no_usage))
            if delta.finish_reason is not None:
                yield event(head.chunk([choice("", delta.finish_reason)], **no_usage))
        if include_usage:
            yield event(head.chunk([], usage=usage(generation.prompt_tokens, produced)))

    return EventStream(events(), generation.aclose)


async def _fold(generation: Generation) -> Whole:
    pieces = []
    async for delta in generation:
        pieces.append(delta.text)
        if delta.finish_reason is not None:
            return Whole(
                "".join(pieces),
                generation.prompt_tokens,
                delta.completion_tokens,
                delta.finish_reason,
            )
    raise AssertionError("a generation ended without a finish reason")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None as soon as the client has gone away."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        watching.cancel()


async def _gone(request: Request) -> None:
    # The body has been read: the next message can only be the disconnect.
    while (await request.receive())["type"] != "http.disconnect":
        pass
