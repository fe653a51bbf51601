"""Steps that fail: whom they take, and how the engine goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Sequence as Items

import pytest

from llm_offline.engine import continuous
from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.scheduler import Scheduler
from llm_offline.engine.step import Row
from llm_offline.errors import GenerationFailed, OutOfMemory
from tests.llm_offline.engine.stepped import Puppet, heard, request, together, under_way, until


def _refusing(prompt: str, error: Exception) -> Callable[[Items[Row]], None]:
    """Fails each step that a prompt takes part in."""

    def refuse(rows: Items[Row]) -> None:
        if any(row.sequence.request.prompt == tuple(map(ord, prompt)) for row in rows):
            raise error

    return refuse


@pytest.mark.parametrize("tokens", [1, 60])
async def test_out_of_memory_takes_whom_it_needs_and_spares_the_others(
    batching: ContinuousBatching, puppet: Puppet, tokens: int
) -> None:
    others = await together(batching, puppet, *(request(name, max_tokens=4) for name in "12"))
    puppet.say("a")
    for other in others:
        await anext(other)
    puppet.before = _refusing("x" * tokens, OutOfMemory("no memory"))
    victim = batching.generate(request("x" * tokens))
    puppet.say("b" * 12)
    with pytest.raises(OutOfMemory):
        await heard(victim)
    assert [(await heard(other))[0] for other in others] == ["bbb"] * 2
    assert batching.status().counters["out_of_memory"] == 1
    assert batching.status().counters["step_failures"] == 0


async def test_memory_that_is_too_small_for_all_together_fails_nobody(
    batching: ContinuousBatching, puppet: Puppet
) -> None:
    def refuse(rows: Items[Row]) -> None:
        if len(rows) > 1:
            raise OutOfMemory("no memory")

    puppet.before = refuse
    three = [batching.generate(request(name, max_tokens=2)) for name in "123"]
    puppet.say("a" * 20)
    assert [(await heard(one))[0] for one in three] == ["aa"] * 3
    assert batching.status().counters["out_of_memory"] == 0


async def test_a_failed_step_takes_whose_fault_it_is_and_the_engine_begins_anew(
    batching: ContinuousBatching, puppet: Puppet
) -> None:
    other = batching.generate(request("1234", max_tokens=4))
    puppet.say("a")
    await anext(other)
    puppet.before = _refusing("x", ZeroDivisionError("in a kernel"))
    puppet.started.clear()
    victim = batching.generate(request("x"))
    puppet.say("b" * 12)
    with pytest.raises(GenerationFailed, match="log says why"):
        await heard(victim)
    assert (await heard(other))[0] == "bbb"
    assert puppet.started.count((*map(ord, "1234"),)) == 1  # read again, into an empty cache
    assert puppet.probes == 1
    await until(batching, running=0)
    status = batching.status()
    assert (status.counters["step_failures"], status.failing) == (1, None)
    assert status.kv_cache_usage == 0
    assert status.finished["error"] == 1


async def test_a_model_that_computes_nothing_any_more_is_told_until_it_does(
    batching: ContinuousBatching, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "PROBE_EVERY", 0.001)
    puppet.broken = True
    both = await together(batching, puppet, *map(request, "12"))
    for _ in range(3):  # for both, and for each of them
        puppet.steps.put(ZeroDivisionError("for good"))
    for generation in both:
        with pytest.raises(GenerationFailed):
            await heard(generation)
    while puppet.probes < 3:
        await asyncio.sleep(0)
    assert batching.status().failing == "ZeroDivisionError"
    puppet.broken = False
    while batching.status().failing:
        await asyncio.sleep(0)
    puppet.say("ok")
    assert (await heard(batching.generate(request(max_tokens=2))))[0] == "ok"


async def test_a_failure_between_steps_is_survived_too(
    batching: ContinuousBatching, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = batching.generate(request("1"))
    puppet.say("a")
    await anext(first)
    await under_way(puppet, 2)

    def fail(scheduler: Scheduler) -> list[Row]:
        monkeypatch.undo()
        raise KeyError("no block is available")

    monkeypatch.setattr(Scheduler, "plan", fail)
    puppet.say("b")
    with pytest.raises(GenerationFailed):
        await heard(first)
    await until(batching, running=0)
    puppet.say("ok")
    assert (await heard(batching.generate(request(max_tokens=2))))[0] == "ok"


async def test_a_request_that_cannot_begin(batching: ContinuousBatching, puppet: Puppet) -> None:
    with pytest.raises(GenerationFailed):
        await heard(batching.generate(request(stop=3)))
    puppet.say("ok")
    assert (await heard(batching.generate(request(max_tokens=2))))[0] == "ok"


class Unsure:
    """A grammar that meets a limit."""

    is_complete = False

    def forced(self) -> list[int]:
        return []

    def fitting(self, tokens: Items[int]) -> int:
        return 0

    def allowed(self, draft: Items[int] = ()) -> object:
        raise GenerationFailed("the grammar is too complex")

    def consume(self, token: int) -> None: ...


async def test_a_grammar_that_fails_takes_its_own_request_only(
    batching: ContinuousBatching, puppet: Puppet
) -> None:
    other = batching.generate(request("1", max_tokens=3))
    unsure = batching.generate(request("2", grammar=Unsure()))
    puppet.say("abc")
    with pytest.raises(GenerationFailed, match="too complex"):
        await heard(unsure)
    assert (await heard(other))[0] == "abc"
    assert batching.status().counters["step_failures"] == 0
