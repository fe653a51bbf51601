"""The engine's queue, cancellation and failures, with a model that the test steps."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Sequence

import pytest

from llm_offline.engine.interface import GenerationRequest, Sampling, TextDelta
from llm_offline.engine.one_at_a_time import OneAtATime
from llm_offline.errors import ContextExceeded, GenerationFailed, QueueFull, ShuttingDown
from llm_offline.loaded import LoadedModel

END = 0


class Puppet:
    """A model whose every step waits for the test: `steps.put(token)` or an exception."""

    stop_ids = frozenset({END})

    def __init__(self) -> None:
        self.steps: queue.Queue[int | Exception | None] = queue.Queue()
        self.started: list[tuple[int, ...]] = []

    def start(self, prompt: Sequence[int], sampling: Sampling) -> Puppet:
        self.started.append(tuple(prompt))
        return self

    def advance(self) -> int | None:
        step = self.steps.get(timeout=30)
        if isinstance(step, Exception):
            raise step
        return step

    def say(self, text: str) -> None:
        for character in text:
            self.steps.put(ord(character))


def _decode(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


@pytest.fixture
def puppet() -> Puppet:
    return Puppet()


@pytest.fixture
async def engine(puppet: Puppet) -> AsyncIterator[OneAtATime]:
    engine = OneAtATime(puppet, _decode, context=100, max_queue=1)
    yield engine
    engine.stop()
    puppet.steps.put(END)
    assert engine.join(10)


async def _until(engine: OneAtATime, *, running: int, waiting: int = 0) -> None:
    while (engine.status().running, engine.status().waiting) != (running, waiting):
        await asyncio.sleep(0)


def _request(prompt: str = "hi", **more: object) -> GenerationRequest:
    return GenerationRequest(tuple(map(ord, prompt)), **more)  # type: ignore[arg-type]


async def _text(deltas: AsyncIterator[TextDelta]) -> tuple[str, TextDelta]:
    everything = [delta async for delta in deltas]
    return "".join(delta.text for delta in everything), everything[-1]


async def test_a_text_that_ends(engine: OneAtATime, puppet: Puppet) -> None:
    puppet.steps.put(None)  # the prompt is read in pieces
    puppet.say("chào")
    puppet.steps.put(END)
    assert await _text(engine.generate(_request())) == ("chào", TextDelta("", 5, "stop"))
    await _until(engine, running=0)
    assert engine.status().finished["stop"] == 1
    assert engine.status().generation_tokens == 5


async def test_max_tokens(engine: OneAtATime, puppet: Puppet) -> None:
    puppet.say("abc")
    assert await _text(engine.generate(_request(max_tokens=3))) == (
        "abc",
        TextDelta("c", 3, "length"),
    )


async def test_max_tokens_is_clipped_to_what_is_left(engine: OneAtATime, puppet: Puppet) -> None:
    puppet.say("ab")
    generation = engine.generate(_request("x" * 98, max_tokens=50))
    assert (await _text(generation))[1].finish_reason == "length"


async def test_stop_strings_are_not_shown(engine: OneAtATime, puppet: Puppet) -> None:
    puppet.say("one STOP")
    text, last = await _text(engine.generate(_request(stop=("STOP",))))
    assert (text, last.finish_reason, last.completion_tokens) == ("one ", "stop", 8)


async def test_what_begins_a_stop_string_is_shown_at_the_end(
    engine: OneAtATime, puppet: Puppet
) -> None:
    puppet.say("one ST")
    puppet.steps.put(END)
    assert (await _text(engine.generate(_request(stop=("STOP",)))))[0] == "one ST"


async def test_a_prompt_that_leaves_no_room(engine: OneAtATime) -> None:
    with pytest.raises(ContextExceeded, match="100 tokens and this server's context is 100"):
        engine.generate(_request("x" * 100))


async def test_the_queue_is_bounded_and_first_come_first_served(
    engine: OneAtATime, puppet: Puppet
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
    engine: OneAtATime, puppet: Puppet
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


async def test_giving_up_while_running_frees_the_engine_within_a_step(
    engine: OneAtATime, puppet: Puppet
) -> None:
    first, second = engine.generate(_request("1")), engine.generate(_request("2"))
    puppet.say("a")
    assert (await anext(first)).text == "a"
    await first.aclose()
    puppet.say("b")  # the step that was under way
    puppet.say("c")
    puppet.steps.put(END)
    assert (await _text(second))[0] == "c"


async def test_an_exception_fails_its_request_only(
    engine: OneAtATime, puppet: Puppet, caplog: pytest.LogCaptureFixture
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


async def test_stopping_ends_all_and_refuses_more(engine: OneAtATime, puppet: Puppet) -> None:
    first, second = engine.generate(_request()), engine.generate(_request())
    await _until(engine, running=1, waiting=1)
    engine.stop()
    for generation in (first, second):
        with pytest.raises(ShuttingDown):
            await _text(generation)
    with pytest.raises(ShuttingDown):
        engine.generate(_request())


async def test_a_real_model_behind_it(loaded: LoadedModel) -> None:
    engine = OneAtATime(loaded.network, loaded.text.decode, context=64, max_queue=8)
    prompt = tuple(loaded.text.encode_chat([{"role": "user", "content": "Xin chào"}]))
    request = GenerationRequest(prompt, Sampling(temperature=0.8, top_p=0.9, seed=3))
    one, two = [await _text(engine.generate(request)) for _ in range(2)]
    engine.stop()
    assert engine.join(10)
    assert one == two
    assert one[1].completion_tokens + len(prompt) <= 64
