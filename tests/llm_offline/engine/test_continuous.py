"""The engine's queue, cancellation and failures, with a model that the test steps."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Items

import pytest

from llm_offline.engine import continuous
from llm_offline.engine.continuous import PROBE, ContinuousBatching
from llm_offline.engine.interface import GenerationRequest, Sampling, TextDelta
from llm_offline.engine.scheduler import Scheduler
from llm_offline.engine.sequence import Drawn
from llm_offline.engine.speculation import NewGuesser, PromptLookup
from llm_offline.engine.step import Row
from llm_offline.errors import (
    BadRequest,
    ContextExceeded,
    GenerationFailed,
    OutOfMemory,
    QueueFull,
    ShuttingDown,
)
from llm_offline.loaded import LoadedModel

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


def _decode(tokens: Items[int]) -> str:
    return "".join(map(chr, tokens))


@pytest.fixture
def puppet() -> Puppet:
    return Puppet()


@pytest.fixture
async def engine(puppet: Puppet) -> AsyncIterator[ContinuousBatching]:
    engine = ContinuousBatching(
        puppet, _decode, context=100, max_queue=1, max_batch=1, guesser=None
    )
    yield engine
    engine.stop()
    puppet.steps.put(END)
    assert engine.join(10)


async def _until(engine: ContinuousBatching, *, running: int, waiting: int = 0) -> None:
    while (engine.status().running, engine.status().waiting) != (running, waiting):
        await asyncio.sleep(0)


def _request(prompt: str = "hi", **more: object) -> GenerationRequest:
    return GenerationRequest(tuple(map(ord, prompt)), **more)  # type: ignore[arg-type]


async def _text(deltas: AsyncIterator[TextDelta]) -> tuple[str, TextDelta]:
    everything = [delta async for delta in deltas]
    return "".join(delta.text for delta in everything), everything[-1]


async def test_a_text_that_ends(engine: ContinuousBatching, puppet: Puppet) -> None:
    puppet.say("chào")
    puppet.steps.put(END)
    assert await _text(engine.generate(_request())) == ("chào", TextDelta("", 5, "stop"))
    await _until(engine, running=0)
    assert engine.status().finished["stop"] == 1
    assert engine.status().generation_tokens == 5


async def test_a_token_that_the_model_does_not_know(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    """It would be looked up past the end of the embeddings, whoever asks."""
    with pytest.raises(BadRequest, match="the prompt has the token 8192, and the model knows 0 to"):
        engine.generate(GenerationRequest((5, puppet.vocabulary, 5)))
    biased = Sampling(logit_bias=((3, 1.0), (puppet.vocabulary, 1.0)))
    with pytest.raises(BadRequest, match="logit_bias: 8192 is not one of the model's token ids"):
        engine.generate(_request(sampling=biased))
    assert (engine.status().waiting, puppet.started) == (0, [])


async def test_max_tokens(engine: ContinuousBatching, puppet: Puppet) -> None:
    puppet.say("abc")
    assert await _text(engine.generate(_request(max_tokens=3))) == (
        "abc",
        TextDelta("c", 3, "length"),
    )


async def test_max_tokens_is_clipped_to_what_is_left(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    puppet.say("ab")
    generation = engine.generate(_request("x" * 98, max_tokens=50))
    assert (await _text(generation))[1].finish_reason == "length"


async def test_stop_strings_are_not_shown(engine: ContinuousBatching, puppet: Puppet) -> None:
    puppet.say("one STOP")
    text, last = await _text(engine.generate(_request(stop=("STOP",))))
    assert (text, last.finish_reason, last.completion_tokens) == ("one ", "stop", 8)


async def test_what_begins_a_stop_string_is_shown_at_the_end(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    puppet.say("one ST")
    puppet.steps.put(END)
    assert (await _text(engine.generate(_request(stop=("STOP",)))))[0] == "one ST"


async def test_an_empty_prompt(engine: ContinuousBatching) -> None:
    with pytest.raises(BadRequest, match="the prompt is empty"):
        engine.generate(GenerationRequest(()))


async def test_a_prompt_that_leaves_no_room(engine: ContinuousBatching) -> None:
    with pytest.raises(ContextExceeded, match="100 tokens and this server's context is 100"):
        engine.generate(_request("x" * 100))


async def test_the_queue_is_bounded_and_first_come_first_served(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    first, second = engine.generate(_request("1")), engine.generate(_request("2"))
    with pytest.raises(QueueFull) as refused:
        engine.generate(_request("3"))
    assert int(refused.value.headers()["retry-after"]) >= 1
    await _until(engine, running=1, waiting=1)
    puppet.say("a")
    puppet.steps.put(END)
    puppet.say("b")
    puppet.steps.put(END)
    assert (await _text(first))[0] == "a"
    assert (await _text(second))[0] == "b"
    assert puppet.started == [(ord("1"),), (ord("2"),)]


async def test_giving_up_in_the_queue_frees_the_place_at_once(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    first, second = engine.generate(_request("1")), engine.generate(_request("2"))
    await second.aclose()
    third = engine.generate(_request("3"))
    for _ in range(2):
        puppet.steps.put(END)
    await _text(first)
    await _text(third)
    assert puppet.started == [(ord("1"),), (ord("3"),)]
    assert engine.status().finished["cancelled"] == 1


async def test_a_text_that_has_what_was_wanted_is_not_cancelled(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    """Whatever the step says that was under way when it was ended."""
    for last in (ord("b"), END, ZeroDivisionError("in a kernel")):
        generation = engine.generate(_request())
        puppet.say("a")
        assert (await anext(generation)).text == "a"
        await generation.aclose(is_whole=True)
        await generation.aclose()
        puppet.steps.put(last)
        await _until(engine, running=0)
    assert engine.status().finished == {"stop": 3, "length": 0, "cancelled": 0, "error": 0}


async def test_giving_up_while_running_frees_the_engine_within_a_step(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    first, second = engine.generate(_request("1")), engine.generate(_request("2"))
    puppet.say("a")
    assert (await anext(first)).text == "a"
    while len(puppet.batches) < 2:
        await asyncio.sleep(0)
    await first.aclose()
    puppet.say("b")  # the step that was under way
    puppet.say("c")
    puppet.steps.put(END)
    assert (await _text(second))[0] == "c"


async def test_an_exception_fails_its_request_only(
    engine: ContinuousBatching, puppet: Puppet, caplog: pytest.LogCaptureFixture
) -> None:
    puppet.steps.put(ZeroDivisionError("in a kernel"))
    with pytest.raises(GenerationFailed, match="log says why"):
        await _text(engine.generate(_request()))
    assert "ZeroDivisionError" in caplog.text
    puppet.say("ok")
    puppet.steps.put(END)
    assert (await _text(engine.generate(_request())))[0] == "ok"
    await _until(engine, running=0)
    assert engine.status().finished["error"] == 1


async def test_stopping_ends_all_and_refuses_more(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    first, second = engine.generate(_request()), engine.generate(_request())
    await _until(engine, running=1, waiting=1)
    engine.stop()
    for generation in (first, second):
        with pytest.raises(ShuttingDown):
            await _text(generation)
    with pytest.raises(ShuttingDown):
        engine.generate(_request())


async def test_a_real_model_behind_it(loaded: LoadedModel) -> None:
    engine = ContinuousBatching(
        loaded.network, loaded.text.decode, context=64, max_queue=8, max_batch=2
    )
    prompt = tuple(loaded.text.encode_chat([{"role": "user", "content": "Xin chào"}]))
    request = GenerationRequest(prompt, Sampling(temperature=0.8, top_p=0.9, seed=3))
    one, two = [await _text(engine.generate(request)) for _ in range(2)]
    engine.stop()
    assert engine.join(10)
    assert one[0] == two[0]
    assert (one[1].cached_tokens, two[1].cached_tokens) == (0, len(prompt) // 16 * 16)
    assert one[1].completion_tokens + len(prompt) <= 64


@pytest.mark.parametrize("guesser", [None, PromptLookup], ids=["", "guesses"])
async def test_a_text_is_cut_at_the_same_token_with_and_without_guesses(
    loaded: LoadedModel, guesser: NewGuesser | None
) -> None:
    """At each place of a text: by a string that ends there, and by max_tokens."""
    engine = ContinuousBatching(
        loaded.network, loaded.text.decode, context=512, max_queue=99, max_batch=4, guesser=guesser
    )
    # It goes round in circles, which is guessed well.
    prompt = tuple(loaded.text.encode("Điều 5. Mức phạt tiền " * 4))
    wishes = Sampling(temperature=0, frequency_penalty=-1)
    deltas = [one async for one in engine.generate(GenerationRequest(prompt, wishes, 40))]
    whole = "".join(one.text for one in deltas)
    if guesser is not None:
        assert len(deltas) < 30
    shorter = [
        await _text(engine.generate(GenerationRequest(prompt, wishes, count)))
        for count in range(1, 40)
    ]
    for count, (text, last) in enumerate(shorter, start=1):
        assert whole.startswith(text)
        assert (last.completion_tokens, last.finish_reason) == (count, "length")
    for at in range(0, len(whole) - 5, 3):
        stop = whole[at : at + 5]
        request = GenerationRequest(prompt, wishes, 40, stop=(stop, "never said"))
        text, last = await _text(engine.generate(request))
        assert text == whole[: whole.index(stop)]
        needed = [len(found) >= len(text) + len(stop) for found, _ in shorter].index(True) + 1
        assert (last.completion_tokens, last.finish_reason) == (needed, "stop")
    engine.stop()
    assert engine.join(10)


@pytest.fixture
async def batching(puppet: Puppet) -> AsyncIterator[ContinuousBatching]:
    """Up to three at once."""
    engine = ContinuousBatching(
        puppet, _decode, context=100, max_queue=0, max_batch=3, guesser=None
    )
    yield engine
    engine.stop()
    puppet.steps.put(END)
    assert engine.join(10)


async def test_requests_join_and_leave_while_others_run(
    batching: ContinuousBatching, puppet: Puppet
) -> None:
    first = batching.generate(_request("1", max_tokens=4))
    puppet.say("a")
    assert (await anext(first)).text == "a"
    second = batching.generate(_request("2", max_tokens=2))
    puppet.say("b")  # the step that was under way
    puppet.say("cd")
    assert (await _text(second))[0] in ("bc", "cd")
    assert (await _text(first))[0] == "bcd"
    assert [(ord("1"),), (ord("2"),)] in puppet.batches


async def test_a_place_is_free_within_a_step_of_giving_up(
    batching: ContinuousBatching, puppet: Puppet
) -> None:
    three = [batching.generate(_request(name)) for name in "123"]
    with pytest.raises(QueueFull):
        batching.generate(_request("4"))
    puppet.say("a")
    await anext(three[2])
    await three[2].aclose()
    puppet.say("b")
    await _until(batching, running=2)
    fourth = batching.generate(_request("4"))
    for _ in range(2):
        puppet.say("c")
    await anext(fourth)
    await _until(batching, running=3)
    assert batching.status().finished["cancelled"] == 1


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
    others = [batching.generate(_request(name, max_tokens=4)) for name in "12"]
    puppet.say("a")
    for other in others:
        await anext(other)
    puppet.before = _refusing("x" * tokens, OutOfMemory("no memory"))
    victim = batching.generate(_request("x" * tokens))
    puppet.say("b" * 12)
    with pytest.raises(OutOfMemory):
        await _text(victim)
    assert [(await _text(other))[0] for other in others] == ["bbb"] * 2
    assert batching.status().counters["out_of_memory"] == 1
    assert batching.status().counters["step_failures"] == 0


async def test_memory_that_is_too_small_for_all_together_fails_nobody(
    batching: ContinuousBatching, puppet: Puppet
) -> None:
    def refuse(rows: Items[Row]) -> None:
        if len(rows) > 1:
            raise OutOfMemory("no memory")

    puppet.before = refuse
    three = [batching.generate(_request(name, max_tokens=2)) for name in "123"]
    puppet.say("a" * 20)
    assert [(await _text(one))[0] for one in three] == ["aa"] * 3
    assert batching.status().counters["out_of_memory"] == 0


async def test_a_failed_step_takes_whose_fault_it_is_and_the_engine_begins_anew(
    batching: ContinuousBatching, puppet: Puppet
) -> None:
    other = batching.generate(_request("1234", max_tokens=4))
    puppet.say("a")
    await anext(other)
    puppet.before = _refusing("x", ZeroDivisionError("in a kernel"))
    puppet.started.clear()
    victim = batching.generate(_request("x"))
    puppet.say("b" * 12)
    with pytest.raises(GenerationFailed, match="log says why"):
        await _text(victim)
    assert (await _text(other))[0] == "bbb"
    assert puppet.started.count((*map(ord, "1234"),)) == 1  # read again, into an empty cache
    assert puppet.probes == 1
    await _until(batching, running=0)
    status = batching.status()
    assert (status.counters["step_failures"], status.failing) == (1, None)
    assert status.kv_cache_usage == 0
    assert status.finished["error"] == 1


async def test_a_model_that_computes_nothing_any_more_is_told_until_it_does(
    batching: ContinuousBatching, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "PROBE_EVERY", 0.001)
    puppet.broken = True
    for _ in range(3):
        puppet.steps.put(ZeroDivisionError("for good"))
    both = [batching.generate(_request(name)) for name in "12"]
    for generation in both:
        with pytest.raises(GenerationFailed):
            await _text(generation)
    while puppet.probes < 3:
        await asyncio.sleep(0)
    assert batching.status().failing == "ZeroDivisionError"
    puppet.broken = False
    while batching.status().failing:
        await asyncio.sleep(0)
    puppet.say("ok")
    assert (await _text(batching.generate(_request(max_tokens=2))))[0] == "ok"


async def test_a_failure_between_steps_is_survived_too(
    batching: ContinuousBatching, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = batching.generate(_request("1"))
    puppet.say("a")
    await anext(first)
    while len(puppet.batches) < 2:  # the next step is under way
        await asyncio.sleep(0)

    def fail(scheduler: Scheduler) -> list[Row]:
        monkeypatch.undo()
        raise KeyError("no block is available")

    monkeypatch.setattr(Scheduler, "plan", fail)
    puppet.say("b")
    with pytest.raises(GenerationFailed):
        await _text(first)
    await _until(batching, running=0)
    puppet.say("ok")
    assert (await _text(batching.generate(_request(max_tokens=2))))[0] == "ok"


async def test_a_request_that_cannot_begin(batching: ContinuousBatching, puppet: Puppet) -> None:
    with pytest.raises(GenerationFailed):
        await _text(batching.generate(_request(stop=3)))
    puppet.say("ok")
    assert (await _text(batching.generate(_request(max_tokens=2))))[0] == "ok"


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
    other = batching.generate(_request("1", max_tokens=3))
    unsure = batching.generate(_request("2", grammar=Unsure()))
    puppet.say("abc")
    with pytest.raises(GenerationFailed, match="too complex"):
        await _text(unsure)
    assert (await _text(other))[0] == "abc"
    assert batching.status().counters["step_failures"] == 0


async def test_more_than_the_cache_holds_waits_its_turn(puppet: Puppet) -> None:
    puppet.blocks = 6  # of 4 tokens
    engine = ContinuousBatching(
        puppet, _decode, context=100, max_queue=9, max_batch=9, guesser=None
    )
    with pytest.raises(ContextExceeded, match="this server's context is 24"):
        engine.generate(_request("x" * 24))
    texts = [engine.generate(_request(name * 8, max_tokens=9)) for name in "123"]
    for _ in range(60):
        puppet.say("a")
    assert [(await _text(generation))[0] for generation in texts] == ["a" * 9] * 3
    engine.stop()
    puppet.steps.put(END)
    assert engine.join(10)
    status = engine.status()
    assert status.counters["num_preemptions"] > 0
    assert status.kv_cache_usage == 0
