"""What is measured: the wall time between a request's tokens, prompts once they were read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Sequence as Items
from contextlib import suppress
from itertools import pairwise
from types import SimpleNamespace

import pytest

from llm_offline.engine import continuous, job
from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.interface import EngineStatus, GenerationRequest
from llm_offline.engine.sequence import Drawn
from llm_offline.engine.speculation import PromptLookup
from llm_offline.engine.step import Row
from llm_offline.errors import GenerationFailed

SAID = 7
WHOLE = tuple[int, ...]


class Ticking:
    """A model that says the same token all the time, and whose every step takes a second."""

    stop_ids = frozenset[int]()
    block_size = 4
    vocabulary = 300

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, blocks: int = 64) -> None:
        self.blocks = blocks
        self.step_tokens = 8
        self.now = 0.0
        self.may_step = threading.Event()
        self.may_step.set()
        self.fails: Callable[[list[WHOLE]], bool] = lambda prompts: False
        self.came: dict[WHOLE, list[float]] = {}
        """When each prompt's tokens came."""
        for module in (continuous, job):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def step(self, rows: Items[Row]) -> list[Drawn]:
        assert self.may_step.wait(60)
        self.now += 1
        if self.fails([row.sequence.request.prompt for row in rows]):
            raise ZeroDivisionError("in a kernel")
        for row in rows:
            if row.samples:
                self.came.setdefault(row.sequence.request.prompt, []).append(self.now)
        return [Drawn([SAID] * row.samples) for row in rows]


async def _measured(
    network: Ticking, *requests: GenerationRequest, guesses: bool = False
) -> EngineStatus:
    engine = ContinuousBatching(
        network,
        lambda tokens: "x" * len(tokens),
        context=100,
        max_queue=9,
        max_batch=4,
        guesser=PromptLookup if guesses else None,
    )
    network.may_step.clear()  # all are asked in the same second
    generations = [engine.generate(request) for request in requests]
    network.may_step.set()
    for generation in generations:
        with suppress(GenerationFailed):
            async for _ in generation:
                pass
    status = engine.status()
    engine.stop()
    assert engine.join(10)
    return status


def _counted(status: EngineStatus, name: str) -> tuple[int, float]:
    """How many durations a histogram has, and their sum."""
    histogram = status.histograms[name]
    return histogram.cumulative()[-1][1], histogram.total


def _prompt(length: int, first: int) -> tuple[int, ...]:
    return tuple(range(first, first + length))


async def test_the_time_between_tokens_is_what_a_client_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also while its sequence was preempted and its prompt read again."""
    network = Ticking(monkeypatch, blocks=6)
    status = await _measured(
        network, *(GenerationRequest(_prompt(8, 100 * n), max_tokens=9) for n in range(3))
    )
    assert status.counters["num_preemptions"] > 0
    gaps = [b - a for at in network.came.values() for a, b in pairwise(at)]
    assert max(gaps) > 2
    assert _counted(status, "inter_token_latency_seconds") == (24, sum(gaps))
    first = sum(at[0] for at in network.came.values())
    assert _counted(status, "time_to_first_token_seconds") == (3, first)


async def test_the_time_between_tokens_goes_on_over_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Ticking(monkeypatch)
    victim, other = _prompt(3, 50), _prompt(20, 100)
    network.fails = lambda prompts: victim in prompts and network.now > 8
    status = await _measured(
        network, *(GenerationRequest(prompt, max_tokens=12) for prompt in (victim, other))
    )
    assert status.counters["step_failures"] == 1
    assert [len(network.came[prompt]) < 12 for prompt in (victim, other)] == [True, False]
    gaps = [b - a for at in network.came.values() for a, b in pairwise(at)]
    assert max(gaps) > 2
    assert _counted(status, "inter_token_latency_seconds") == (len(gaps), sum(gaps))


async def test_tokens_that_come_together_share_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Ticking(monkeypatch)
    repeating = (SAID,) * 8
    status = await _measured(network, GenerationRequest(repeating, max_tokens=21), guesses=True)
    assert status.counters["spec_decode_num_accepted_tokens"] > 5
    (came,) = network.came.values()
    assert len(came) < 12
    count, seconds = _counted(status, "inter_token_latency_seconds")
    assert (count, round(seconds, 9)) == (20, came[-1] - came[0])


async def test_a_prompt_counts_once_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Ticking(monkeypatch, blocks=30)
    engine = ContinuousBatching(
        network, lambda tokens: "", context=100, max_queue=9, max_batch=4, guesser=None
    )
    counted: list[int] = []
    network.fails = lambda prompts: counted.append(engine.status().prompt_tokens) is not None
    async for _ in engine.generate(GenerationRequest(_prompt(20, 100), max_tokens=2)):
        pass
    assert counted == [0, 0, 0, 20]
    assert engine.status().prompt_tokens == 20
    # What the cache holds counts as well, as in vLLM.
    async for _ in engine.generate(GenerationRequest(_prompt(20, 100), max_tokens=1)):
        pass
    status = engine.status()
    assert status.prompt_tokens == 40
    assert status.counters["prefix_cache_queries"] == 40
    assert status.counters["prefix_cache_hits"] == 16
    engine.stop()
    assert engine.join(10)
