"""Summaries: in one call or in parts and together, in the text's language, nothing left unread."""

from __future__ import annotations

import asyncio
import re

import pytest

from llm_offline.errors import BadRequest, GenerationFailed, OutOfMemory, QueueFull
from llm_offline.tasks import prompts
from llm_offline.tasks.running import Running
from llm_offline.tasks.summarizing import Summarizer, words_for
from llm_offline.tasks.writing import ADMITTED, AT_ONCE
from tests.llm_offline.tasks.scripted import scripted

ENGLISH = "Every employee has twelve days of paid leave a year."
VIETNAMESE = "Người lao động được nghỉ phép năm mười hai ngày, hưởng nguyên lương."


def numbered(count: int) -> str:
    """A text whose sentences can be told apart."""
    return " ".join(f"Fact number{n} is here." for n in range(count))


def facts(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"number(\d+)", text)]


async def summary(summarizer: Summarizer) -> str:
    deltas = [delta async for delta in summarizer.deltas()]
    assert deltas[0] is ADMITTED
    assert deltas[-1].finish_reason is not None
    return "".join(delta.text for delta in deltas)


async def test_a_short_text_takes_one_call() -> None:
    writer, engine = scripted(lambda _: "Twelve days.")
    summarizer = Summarizer(writer, ENGLISH, words=30, stop=("END",))
    assert await summary(summarizer) == "Twelve days."
    assert (summarizer.pieces, summarizer.incomplete) == (1, 0)
    (prompt,) = engine.prompts
    assert "about 30 words" in prompt
    assert "language of the text" in prompt
    assert prompt.endswith(f"Text:\n{ENGLISH}")
    assert engine.requests[0].stop == ("END",)
    assert writer.used.prompt_tokens == len(engine.requests[0].prompt)
    assert writer.used.completion_tokens == 2


async def test_a_vietnamese_text_is_asked_about_in_vietnamese() -> None:
    writer, engine = scripted(lambda _: "Mười hai ngày.", context=2000)
    await summary(Summarizer(writer, VIETNAMESE, words=30))
    writer, parts = scripted(lambda _: "Mười hai ngày.", context=500)
    await summary(Summarizer(writer, VIETNAMESE * 40, words=30))
    assert len(parts.prompts) > 2
    for prompt in [*engine.prompts, *parts.prompts]:
        assert "bằng tiếng Việt" in prompt
        assert "Summar" not in prompt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VIETNAMESE, True),
        ("Nghi dinh 100 quy dinh muc phat", False),
        (ENGLISH, False),
        ("Les employés ont droit à douze jours de congés payés.", False),
        ("Os funcionários têm direito a férias; não há exceções.", False),
        ("", False),
    ],
)
def test_which_texts_are_vietnamese(text: str, expected: bool) -> None:
    assert prompts.is_vietnamese(text) is expected


async def test_a_long_text_is_read_whole_in_parts_and_put_together() -> None:
    def answer(prompt: str) -> str:
        found = facts(prompt)
        return f"number{found[0]} to number{found[-1]}"

    writer, engine = scripted(answer)
    text = numbered(300)
    summarizer = Summarizer(writer, text, words=20)
    assert await summary(summarizer) == "number0 to number299"
    *parts, whole = engine.prompts
    assert summarizer.pieces == len(parts) > 3
    read = [fact for prompt in parts for fact in facts(prompt)]
    assert read == list(range(300))
    assert all("one part of a long text" in prompt for prompt in parts)
    assert facts(whole) == [f for part in parts for f in (facts(part)[0], facts(part)[-1])]
    assert "summaries of the parts" in whole
    assert engine.most_running <= AT_ONCE
    assert writer.used.prompt_tokens == sum(len(one.prompt) for one in engine.requests)
    assert all(len(one.prompt) + (one.max_tokens or 0) <= 400 for one in engine.requests[:-1])


async def test_summaries_of_parts_that_are_too_long_are_summarised_again() -> None:
    def answer(prompt: str) -> str:
        return " ".join(f"number{n}." for n in facts(prompt)[:8])

    writer, engine = scripted(answer)
    summarizer = Summarizer(writer, numbered(1500), words=20)
    await summary(summarizer)
    assert len(engine.prompts) > summarizer.pieces + 2
    assert sum("summaries of the parts" in prompt for prompt in engine.prompts) == 1


async def test_parts_that_the_model_did_not_finish_are_counted() -> None:
    writer, _ = scripted(lambda prompt: "on and on " * (30 if "one part" in prompt else 1))
    summarizer = Summarizer(writer, numbered(200), words=20)
    await summary(summarizer)
    assert summarizer.incomplete >= summarizer.pieces > 1


async def test_white_space_is_not_asked_about() -> None:
    writer, engine = scripted(lambda _: "short")
    summarizer = Summarizer(writer, f"{ENGLISH}{' ' * 9}\n" * 80 + "\n" * 5000, words=20)
    assert await summary(summarizer) == "short"
    assert summarizer.pieces == len(engine.prompts) - 1
    assert not any(prompt.endswith("Text:\n ") for prompt in engine.prompts)


async def test_a_model_that_says_nothing_or_never_less() -> None:
    writer, _ = scripted(lambda _: " ")
    with pytest.raises(GenerationFailed, match="wrote nothing"):
        await summary(Summarizer(writer, numbered(200), words=20))
    for answer in ("x" * 4000, "x" * 900):  # more each time, and as much each time
        writer, engine = scripted(lambda _, answer=answer: answer)  # type: ignore[misc]
        with pytest.raises(GenerationFailed, match="do not become shorter"):
            await summary(Summarizer(writer, numbered(200), words=20))
        assert len(engine.prompts) < 50


async def test_a_context_that_is_too_small_is_refused() -> None:
    writer, _ = scripted(lambda _: "x", context=100)
    with pytest.raises(BadRequest, match="larger --max-context"):
        await summary(Summarizer(writer, numbered(200), words=20))


async def test_a_full_queue_refuses_the_first_call_and_delays_the_others() -> None:
    writer, engine = scripted(lambda _: "short")
    engine.refusals = 1
    with pytest.raises(QueueFull):
        await summary(Summarizer(writer, numbered(200), words=20))
    summarizer = Summarizer(writer, numbered(200), words=20)
    deltas = summarizer.deltas()
    await anext(deltas)
    engine.refusals = 7
    assert "".join([delta.text async for delta in deltas]) == "short"
    assert engine.refusals == 0


async def test_work_that_has_begun_leaves_most_of_the_queue_to_others() -> None:
    writer, engine = scripted(lambda _: "short")
    engine.waiting = 2
    running = Running(writer, Summarizer(writer, numbered(200), words=20).deltas())
    await anext(running)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(engine.prompts) == 1
    engine.waiting = 1
    assert "".join([delta.text async for delta in running]) == "short"


async def test_what_is_given_up_or_fails_leaves_nothing_behind() -> None:
    writer, engine = scripted(lambda _: "short")
    engine.may_go_on.clear()
    running = Running(writer, Summarizer(writer, numbered(400), words=20).deltas())
    assert await anext(running) is ADMITTED
    while len(engine.running) < AT_ONCE:
        await asyncio.sleep(0)
    await running.aclose()
    assert not engine.running
    assert len(engine.prompts) == AT_ONCE

    def answer(prompt: str) -> str:
        if "number150 " in prompt:
            raise OutOfMemory("too much")
        return "short"

    writer, engine = scripted(answer)
    running = Running(writer, Summarizer(writer, numbered(400), words=20).deltas())
    with pytest.raises(OutOfMemory):
        [delta async for delta in running]
    await running.aclose()
    assert not engine.running


def test_lengths() -> None:
    long = "word " * 3000
    assert [words_for(name, long) for name in ("short", "medium", "long")] == [50, 150, 400]
    assert words_for(77, "few words") == 77
    assert words_for("long", "word " * 90) == 30
    assert words_for("long", "few words") == 15
    assert words_for("medium", "条文规定" * 300) == 66
