"""A model that is asked several things for one request: admission, patience, and what it took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from llm_offline.engine.interface import (
    Engine,
    Generation,
    GenerationRequest,
    Grammar,
    Sampling,
    TextDelta,
)
from llm_offline.errors import QueueFull
from llm_offline.loaded import Text
from llm_offline.pool import Aside

T = TypeVar("T")

AT_ONCE = 4
"""Calls of one request that run or wait together."""

SHARE = 4
"""Work that has begun waits in the first so many-th of the queue; the rest is for new requests."""

PATIENCE = 300.0
"""Seconds for which a request that has begun waits for a place in the queue."""

_POLL = 0.1

ADMITTED = TextDelta("", 0)
"""What a task yields first, once the engine has taken it: from then on it can be streamed."""


@dataclass(frozen=True, slots=True)
class Used:
    """Tokens of all calls together."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Writer:
    """Asks one model on behalf of one request."""

    def __init__(
        self,
        text: Text,
        engine: Engine,
        *,
        context: int,
        sampling: Sampling,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
        aside: Aside = asyncio.to_thread,
    ) -> None:
        """Of one request.

        Args:
            text, engine: Of the model.
            context: Tokens of prompt and answer together.
            sampling: How its texts are drawn.
            pause: Lets seconds go by.
            aside: Where prompts are written and grammars made.
        """
        self.aside = aside
        self.context = context
        self.used = Used()
        self._text = text
        self._engine = engine
        self._sampling = sampling
        self._pause = pause
        self._open: set[Generation] = set()

    def encode(self, prompt: str) -> tuple[int, ...]:
        """A prompt in the model's own template; raises `UnsupportedFeature` without one."""
        return tuple(self._text.encode_chat([{"role": "user", "content": prompt}]))

    def count(self, text: str) -> int:
        """Tokens of a text as it stands."""
        return len(self._text.encode(text, add_special_tokens=False))

    def admit(
        self,
        prompt: tuple[int, ...],
        *,
        max_tokens: int | None,
        stop: tuple[str, ...] = (),
        grammar: Grammar | None = None,
    ) -> Generation:
        """Ask, at once or not at all.

        Raises:
            ContextExceeded, QueueFull, ShuttingDown: See `Engine.generate`.
        """
        request = GenerationRequest(prompt, self._sampling, max_tokens, stop, grammar=grammar)
        generation = self._engine.generate(request)
        self._open.add(generation)
        return generation

    async def place(
        self,
        prompt: tuple[int, ...],
        *,
        max_tokens: int | None,
        stop: tuple[str, ...] = (),
        grammar: Grammar | None = None,
    ) -> Generation:
        """Ask, once there is a place: work that has begun is not thrown away for a full queue.

        Raises:
            QueueFull: There was none for `PATIENCE`.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            now = self._engine.status()
            is_late = time.monotonic() > deadline
            if is_late or now.waiting < max(1, now.queue_limit // SHARE):
                try:
                    return self.admit(prompt, max_tokens=max_tokens, stop=stop, grammar=grammar)
                except QueueFull:
                    if is_late:
                        raise
            await self._pause(_POLL)

    async def deltas(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """What is written, as it comes."""
        async for delta in generation:
            if delta.finish_reason is not None:
                used = self.used
                self.used = Used(
                    used.prompt_tokens + generation.prompt_tokens,
                    used.completion_tokens + delta.completion_tokens,
                    used.cached_tokens + delta.cached_tokens,
                )
                self._open.discard(generation)
            yield delta

    async def whole(self, generation: Generation) -> tuple[str, bool]:
        """All that is written, and whether it came to its end."""
        text, ended = "", False
        async with aclosing(self.deltas(generation)) as deltas:
            async for delta in deltas:
                text += delta.text
                ended = delta.finish_reason == "stop"
        return text, ended

    async def free(self) -> None:
        """Give up whatever is not finished."""
        while self._open:
            await self._open.pop().aclose()


async def in_order(
    works: Sequence[Callable[[], Coroutine[Any, Any, T]]], at_once: int = AT_ONCE
) -> AsyncGenerator[T, None]:
    """The results in the works' order, each as soon as it and all before it are there."""
    slots = asyncio.Semaphore(at_once)

    async def one(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with slots:
            return await work()

    tasks = [asyncio.ensure_future(one(work)) for work in works]
    try:
        for task in tasks:
            # Not awaited itself: being given up here would end it first, and begin another one.
            await asyncio.wait({task})
            yield task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
