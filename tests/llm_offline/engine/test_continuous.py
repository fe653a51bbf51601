"""The engine's queue and cancellation, with a model that the test steps."""

from __future__ import annotations

import pytest

from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.interface import GenerationRequest, Sampling, TextDelta
from llm_offline.engine.speculation import NewGuesser, PromptLookup
from llm_offline.errors import (
    BadRequest,
    ContextExceeded,
    GenerationFailed,
    QueueFull,
    ShuttingDown,
)
from llm_offline.loaded import LoadedModel
from tests.llm_offline.engine.stepped import (
    END,
    Puppet,
    all_under_way,
    decode,
    heard,
    request,
    under_way,
    until,
)


async def test_a_text_that_ends(engine: ContinuousBatching, puppet: Puppet) -> None:
    puppet.say("chào")
    puppet.steps.put(END)
    assert await heard(engine.generate(request())) == ("chào", TextDelta("", 5, "stop"))
    await until(engine, running=0)
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
        engine.generate(request(sampling=biased))
    assert (engine.status().waiting, puppet.started) == (0, [])


async def test_max_tokens(engine: ContinuousBatching, puppet: Puppet) -> None:
    puppet.say("abc")
    assert await heard(engine.generate(request(max_tokens=3))) == (
        "abc",
        TextDelta("c", 3, "length"),
    )


async def test_max_tokens_is_clipped_to_what_is_left(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    puppet.say("ab")
    generation = engine.generate(request("x" * 98, max_tokens=50))
    assert (await heard(generation))[1].finish_reason == "length"


async def test_stop_strings_are_not_shown(engine: ContinuousBatching, puppet: Puppet) -> None:
    puppet.say("one STOP")
    text, last = await heard(engine.generate(request(stop=("STOP",))))
    assert (text, last.finish_reason, last.completion_tokens) == ("one ", "stop", 8)


async def test_what_begins_a_stop_string_is_shown_at_the_end(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    puppet.say("one ST")
    puppet.steps.put(END)
    assert (await heard(engine.generate(request(stop=("STOP",)))))[0] == "one ST"


async def test_an_empty_prompt(engine: ContinuousBatching) -> None:
    with pytest.raises(BadRequest, match="the prompt is empty"):
        engine.generate(GenerationRequest(()))


async def test_a_prompt_that_leaves_no_room(engine: ContinuousBatching) -> None:
    with pytest.raises(ContextExceeded, match="100 tokens and this server's context is 100"):
        engine.generate(request("x" * 100))


async def test_the_queue_is_bounded_and_first_come_first_served(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    first, second = engine.generate(request("1")), engine.generate(request("2"))
    with pytest.raises(QueueFull) as refused:
        engine.generate(request("3"))
    assert int(refused.value.headers()["retry-after"]) >= 1
    await until(engine, running=1, waiting=1)
    puppet.say("a")
    puppet.steps.put(END)
    puppet.say("b")
    puppet.steps.put(END)
    assert (await heard(first))[0] == "a"
    assert (await heard(second))[0] == "b"
    assert puppet.started == [(ord("1"),), (ord("2"),)]


async def test_giving_up_in_the_queue_frees_the_place_at_once(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    first, second = engine.generate(request("1")), engine.generate(request("2"))
    await second.aclose()
    third = engine.generate(request("3"))
    for _ in range(2):
        puppet.steps.put(END)
    await heard(first)
    await heard(third)
    assert puppet.started == [(ord("1"),), (ord("3"),)]
    assert engine.status().finished["cancelled"] == 1


async def test_a_text_that_has_what_was_wanted_is_not_cancelled(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    """Whatever the step says that was under way when it was ended."""
    for number, last in enumerate((ord("b"), END, ZeroDivisionError("in a kernel")), start=1):
        generation = engine.generate(request())
        puppet.say("a")
        assert (await anext(generation)).text == "a"
        await under_way(puppet, 2 * number)
        await generation.aclose(is_whole=True)
        await generation.aclose()
        puppet.steps.put(last)
        await until(engine, running=0)
    assert engine.status().finished == {"stop": 3, "length": 0, "cancelled": 0, "error": 0}


async def test_giving_up_while_running_frees_the_engine_within_a_step(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    first, second = engine.generate(request("1")), engine.generate(request("2"))
    puppet.say("a")
    assert (await anext(first)).text == "a"
    await under_way(puppet, 2)
    await first.aclose()
    puppet.say("b")  # the step that was under way
    puppet.say("c")
    puppet.steps.put(END)
    assert (await heard(second))[0] == "c"


async def test_an_exception_fails_its_request_only(
    engine: ContinuousBatching, puppet: Puppet, caplog: pytest.LogCaptureFixture
) -> None:
    puppet.steps.put(ZeroDivisionError("in a kernel"))
    with pytest.raises(GenerationFailed, match="log says why"):
        await heard(engine.generate(request()))
    assert "ZeroDivisionError" in caplog.text
    puppet.say("ok")
    puppet.steps.put(END)
    assert (await heard(engine.generate(request())))[0] == "ok"
    await until(engine, running=0)
    assert engine.status().finished["error"] == 1


async def test_stopping_ends_all_and_refuses_more(
    engine: ContinuousBatching, puppet: Puppet
) -> None:
    first, second = engine.generate(request()), engine.generate(request())
    await until(engine, running=1, waiting=1)
    engine.stop()
    for generation in (first, second):
        with pytest.raises(ShuttingDown):
            await heard(generation)
    with pytest.raises(ShuttingDown):
        engine.generate(request())


async def test_a_real_model_behind_it(loaded: LoadedModel) -> None:
    engine = ContinuousBatching(
        loaded.network, loaded.text.decode, context=64, max_queue=8, max_batch=2
    )
    prompt = tuple(loaded.text.encode_chat([{"role": "user", "content": "Xin chào"}]))
    request = GenerationRequest(prompt, Sampling(temperature=0.8, top_p=0.9, seed=3))
    one, two = [await heard(engine.generate(request)) for _ in range(2)]
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
        await heard(engine.generate(GenerationRequest(prompt, wishes, count)))
        for count in range(1, 40)
    ]
    for count, (text, last) in enumerate(shorter, start=1):
        assert whole.startswith(text)
        assert (last.completion_tokens, last.finish_reason) == (count, "length")
    for at in range(0, len(whole) - 5, 3):
        stop = whole[at : at + 5]
        request = GenerationRequest(prompt, wishes, 40, stop=(stop, "never said"))
        text, last = await heard(engine.generate(request))
        assert text == whole[: whole.index(stop)]
        needed = [len(found) >= len(text) + len(stop) for found, _ in shorter].index(True) + 1
        assert (last.completion_tokens, last.finish_reason) == (needed, "stop")
    engine.stop()
    assert engine.join(10)


async def test_requests_join_and_leave_while_others_run(
    batching: ContinuousBatching, puppet: Puppet
) -> None:
    first = batching.generate(request("1", max_tokens=4))
    puppet.say("a")
    assert (await anext(first)).text == "a"
    second = batching.generate(request("2", max_tokens=2))
    puppet.say("b")  # the step that was under way
    puppet.say("cd")
    assert (await heard(second))[0] in ("bc", "cd")
    assert (await heard(first))[0] == "bcd"
    assert [(ord("1"),), (ord("2"),)] in puppet.batches


async def test_a_place_is_free_within_a_step_of_giving_up(
    batching: ContinuousBatching, puppet: Puppet
) -> None:
    three = [batching.generate(request(name)) for name in "123"]
    with pytest.raises(QueueFull):
        batching.generate(request("4"))
    await all_under_way(puppet, 3)
    puppet.say("a")
    await anext(three[2])
    await three[2].aclose()
    puppet.say("b")
    await until(batching, running=2)
    fourth = batching.generate(request("4"))
    for _ in range(2):
        puppet.say("c")
    await anext(fourth)
    await until(batching, running=3)
    assert batching.status().finished["cancelled"] == 1


async def test_more_than_the_cache_holds_waits_its_turn(puppet: Puppet) -> None:
    puppet.blocks = 6  # of 4 tokens
    engine = ContinuousBatching(puppet, decode, context=100, max_queue=9, max_batch=9, guesser=None)
    with pytest.raises(ContextExceeded, match="this server's context is 24"):
        engine.generate(request("x" * 24))
    texts = [engine.generate(request(name * 8, max_tokens=9)) for name in "123"]
    for _ in range(60):
        puppet.say("a")
    assert [(await heard(generation))[0] for generation in texts] == ["a" * 9] * 3
    engine.stop()
    puppet.steps.put(END)
    assert engine.join(10)
    status = engine.status()
    assert status.counters["num_preemptions"] > 0
    assert status.kv_cache_usage == 0
