"""A model whose every step waits for the test, and what is asked of an engine with it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Items

from llm_offline.engine.continuous import PROBE, ContinuousBatching
from llm_offline.engine.interface import GenerationRequest, TextDelta
from llm_offline.engine.job import Job
from llm_offline.engine.sequence import Drawn
from llm_offline.engine.step import Row

END = 0
WHOLE = tuple[int, ...]


class Puppet:
    """A model whose every step waits for the test: `steps.put(token)` or an exception.

    Each row of a step gets the same token; `before` looks at a step's rows, and may raise.
    A probe does not wait.
    """

    stop_ids = frozenset({END})
    block_size = 4
    vocabulary = 8192

    def __init__(self, blocks: int = 64, step_tokens: int = 100) -> None:
        self.blocks = blocks
        self.step_tokens = step_tokens
        self.steps: queue.Queue[int | Exception] = queue.Queue()
        self.started: list[WHOLE] = []
        self.batches: list[list[WHOLE]] = []
        self.before: Callable[[Items[Row]], None] = lambda rows: None
        self.broken = False
        self.probes = 0

    def step(self, rows: Items[Row]) -> list[Drawn]:
        if rows[0].sequence.request.prompt == PROBE:
            self.probes += 1
            if self.broken:
                raise ZeroDivisionError("for good")
            return [Drawn([END])]
        for row in rows:
            prompt = row.sequence.request.prompt
            if row.start == 0:
                self.started.append(prompt)
        self.batches.append([row.sequence.request.prompt for row in rows])
        step = self.steps.get(timeout=30)
        if isinstance(step, Exception):
            raise step
        self.before(rows)
        return [Drawn([step] * row.samples) for row in rows]

    def say(self, text: str) -> None:
        for character in text:
            self.steps.put(ord(character))


def decode(tokens: Items[int]) -> str:
    return "".join(map(chr, tokens))


async def until(engine: ContinuousBatching, *, running: int, waiting: int = 0) -> None:
    while (engine.status().running, engine.status().waiting) != (running, waiting):
        await asyncio.sleep(0)


async def under_way(puppet: Puppet, steps: int) -> None:
    """Until the last of so many steps, counted from the first, waits for its token."""
    while len(puppet.batches) < steps:
        await asyncio.sleep(0)


async def all_under_way(puppet: Puppet, rows: int) -> None:
    """Until a step of so many rows waits for its token.

    The engine may begin with the first request before the others have come: the steps before
    this one get a token each.
    """
    seen = 0
    while True:
        await under_way(puppet, seen + 1)
        seen = len(puppet.batches)
        if len(puppet.batches[-1]) == rows:
            return
        puppet.say("a")


async def together(
    engine: ContinuousBatching, puppet: Puppet, *requests: GenerationRequest
) -> list[Job]:
    """They begin in the same step: all come while the step of another request is under way."""
    held = engine.generate(request("held", max_tokens=1))
    await under_way(puppet, 1)
    jobs = [engine.generate(one) for one in requests]
    puppet.say("h")
    await heard(held)
    return jobs


def request(prompt: str = "hi", **more: object) -> GenerationRequest:
    return GenerationRequest(tuple(map(ord, prompt)), **more)  # type: ignore[arg-type]


async def heard(deltas: AsyncIterator[TextDelta]) -> tuple[str, TextDelta]:
    everything = [delta async for delta in deltas]
    return "".join(delta.text for delta in everything), everything[-1]
