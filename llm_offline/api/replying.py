"""From generations to a reply: whole, or as events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llm_offline.api.sse import EventStream, event
from llm_offline.engine.interface import (
    Engine,
    Generation,
    GenerationRequest,
    TextDelta,
)
from llm_offline.errors import ClientGone, LLMOfflineError
from llm_offline.running import Ready
from llm_offline.serving import Serving

T = TypeVar("T")

Choice = Callable[[int, TextDelta], dict[str, Any]]
"""`choices[i]` of a chunk, for i and what was added."""


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
    """The loaded model and its engine: the one that a route of `waiting.Waiting` holds, if it does.

    Raises:
        Loading, ShuttingDown: See `Serving.ready`.
    """
    held: Ready | None = getattr(request.state, "ready", None)
    return held or serving_of(request).ready()


async def admit(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """Let all in, or none.

    Raises:
        BadRequest, QueueFull, ShuttingDown: See `Engine.generate`.
    """
    admitted: list[Generation] = []
    try:
        for before, request in enumerate(requests):
            admitted.append(engine.generate(request, len(requests) - before))
    except LLMOfflineError:
        await free(admitted)
        raise
    return admitted


async def free(generations: Sequence[Generation]) -> None:
    """Give up what is not finished."""
    for generation in generations:
        await generation.aclose()


def usage(generations: Sequence[Generation], ends: Sequence[TextDelta]) -> dict[str, Any]:
    """OpenAI's `usage`; several texts have one prompt."""
    prompt = generations[0].prompt_tokens
    completion = sum(end.completion_tokens for end in ends)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": ends[0].cached_tokens},
    }


async def reply(
    request: Request,
    generations: Sequence[Generation],
    shape: Callable[[list[TextDelta], dict[str, Any]], dict[str, Any]],
) -> Response:
    """The whole texts as JSON.

    Args:
        request: Of the client.
        generations: Where the texts come from.
        shape: The JSON of the whole texts and the usage.

    Raises:
        ClientGone: Nobody waits for them any more.
    """
    try:
        wholes = await unless_gone(request, _fold_all(generations))
    finally:
        await free(generations)
    return JSONResponse(shape(wholes, usage(generations, wholes)))


def stream(
    generations: Sequence[Generation],
    head: Head,
    choice: Choice,
    *,
    opening: Callable[[int], dict[str, Any]] | None,
    include_usage: bool,
) -> EventStream:
    """The texts as events.

    Args:
        generations: Where the texts come from.
        head: What each chunk repeats.
        choice: `choices[i]` for what was added, and for the end.
        opening: `choices[i]` of a first chunk, before any text.
        include_usage: Add null usage to each chunk, and a last one with the counts.
    """
    no_usage = {"usage": None} if include_usage else {}

    async def events() -> AsyncIterator[bytes]:
        if opening is not None:
            for number in range(len(generations)):
                yield event(head.chunk([opening(number)], **no_usage))
        ends: dict[int, TextDelta] = {}
        async with aclosing(_merged(generations)) as deltas:
            async for number, delta in deltas:
                if delta.text or delta.logprobs or delta.tool_calls:
                    added = replace(delta, finish_reason=None)
                    yield event(head.chunk([choice(number, added)], **no_usage))
                if delta.finish_reason is not None:
                    ends[number] = delta
                    end = replace(delta, text="", logprobs=(), tool_calls=())
                    yield event(head.chunk([choice(number, end)], **no_usage))
        if include_usage:
            counted = usage(generations, [ends[number] for number in sorted(ends)])
            yield event(head.chunk([], usage=counted))

    return EventStream(events(), lambda: free(generations))


async def _merged(
    generations: Sequence[Generation],
) -> AsyncGenerator[tuple[int, TextDelta], None]:
    """Deltas of all, in the order in which they come, with the number of their text."""
    if len(generations) == 1:
        async for delta in generations[0]:
            yield 0, delta
        return
    tasks = {asyncio.ensure_future(anext(one)): n for n, one in enumerate(generations)}
    try:
        while tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                # One that fails stays among the tasks, as do those that failed with it.
                delta = task.result()
                number = tasks.pop(task)
                if delta.finish_reason is None:
                    tasks[asyncio.ensure_future(anext(generations[number]))] = number
                yield number, delta
    finally:
        for task in tasks:
            task.cancel()
        # What failed too is fetched here, and what was cancelled has ended when this returns.
        await asyncio.gather(*tasks, return_exceptions=True)


async def _fold_all(generations: Sequence[Generation]) -> list[TextDelta]:
    """Each whole text, as one delta."""
    wholes: list[list[TextDelta]] = [[] for _ in generations]
    async with aclosing(_merged(generations)) as deltas:
        async for number, delta in deltas:
            wholes[number].append(delta)
    return [
        replace(
            whole[-1],
            text="".join(delta.text for delta in whole),
            logprobs=tuple(one for delta in whole for one in delta.logprobs),
        )
        for whole in wholes
    ]


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises; it is cancelled when the client goes away.

    Raises:
        ClientGone: It has.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def gone(request: Request) -> None:
    """Until the client has gone away; the body must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
