"""What is left of passages: sentences of theirs, in order, within the target."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from llm_offline.errors import ContextExceeded, QueueFull
from llm_offline.tasks.compressing import Compressor, Kept, Passage, numbers_in
from tests.llm_offline.tasks.scripted import ScriptedEngine, scripted

QUESTION = "What is the fine?"
PASSAGES = (
    Passage("The law is old. The fine is 200. Helmets protect. The fine doubles.", "law.pdf"),
    Passage("The canteen is open. Lunch is at noon.", {"page": 3}),
    Passage("A fine: see page 9.\nThe fine is paid at the bank.\n", 7),
)


class NoGrammars:
    """Grammars that restrict nothing."""

    def json_object(self) -> Any:
        return None

    def json_schema(self, schema: Mapping[str, Any], *, param: str = "") -> Any:
        return None


def choosing(*words: str) -> Any:
    """A model that chooses the sentences with one of the words, the last one first."""

    def answer(prompt: str) -> str:
        listed = re.findall(r"^\[(\d+)\] (.*)$", prompt.partition("Sentences:\n")[2], re.MULTILINE)
        return json.dumps([int(n) for n, said in reversed(listed) if any(w in said for w in words)])

    return answer


async def kept(
    answer: Any, passages: Sequence[Passage] = PASSAGES, context: int = 400, **targets: Any
) -> tuple[list[Kept], ScriptedEngine, Compressor]:
    writer, engine = scripted(answer, context=context)
    compressor = Compressor(writer, NoGrammars(), passages, QUESTION, **targets)
    admitted, *found = [one async for one in compressor.kept()]
    assert admitted is None
    return [one for one in found if one is not None], engine, compressor


async def test_only_what_helps_in_order_with_its_source() -> None:
    found, engine, compressor = await kept(choosing("fine"))
    assert [(one.index, one.source, one.text) for one in found] == [
        (0, "law.pdf", "The fine is 200.\nThe fine doubles."),
        (2, 7, "A fine: see page 9.\nThe fine is paid at the bank."),
    ]
    for one in found:
        said = PASSAGES[one.index].text
        assert "\n".join(said[start:end] for start, end in one.spans) == one.text
    assert len(found[1].spans) == 1  # neighbours stay together
    assert len(engine.prompts) == 3
    assert all(QUESTION in prompt for prompt in engine.prompts)
    assert "[2] The fine is 200." in engine.prompts[0]
    assert compressor.target is None
    assert compressor.tokens_before > sum(one.tokens for one in found)


async def test_nothing_helps_and_nothing_to_read() -> None:
    assert (await kept(choosing("zebra")))[0] == []
    found, engine, _ = await kept(choosing("x"), [Passage(" \n "), Passage("")])
    assert (found, engine.prompts) == ([], [])


@pytest.mark.parametrize("target", [8, 9, 12, 15, 20, 40])
async def test_a_target_is_kept_best_sentences_first(target: int) -> None:
    found, _, _ = await kept(choosing("fine"), target=target)
    assert 0 < sum(one.tokens for one in found) <= target
    best = [PASSAGES[0].text[55:], "The fine is paid at the bank."]
    said = "\n".join(one.text for one in found)
    assert "The fine doubles." in said
    assert (best[1] in said) == (target >= 15)


async def test_a_ratio_is_of_the_tokens_before() -> None:
    found, _, compressor = await kept(choosing("fine"), ratio=0.3)
    assert compressor.target == int(0.3 * compressor.tokens_before)
    assert 0 < sum(one.tokens for one in found) <= compressor.target


async def test_a_sentence_longer_than_the_target_is_cut() -> None:
    passage = Passage("The fine " + "grows and " * 50)
    (one,), _, _ = await kept(choosing("fine"), [passage], target=10)
    assert 0 < one.tokens <= 10
    assert passage.text.startswith(one.text)


async def test_a_passage_longer_than_the_context_is_read_in_parts() -> None:
    text = " ".join(f"Sentence number{n} is here." for n in range(200))
    found, engine, _ = await kept(choosing("number7 ", "number150 "), [Passage(text)])
    assert len(engine.prompts) > 2
    assert found[0].text == "Sentence number7 is here.\nSentence number150 is here."
    read = [int(n) for prompt in engine.prompts for n in re.findall(r"number(\d+)", prompt)]
    assert read == list(range(200))


async def test_a_sentence_longer_than_the_context_is_read_in_parts() -> None:
    text = " ".join(f"word{n}" for n in range(1000))
    found, engine, _ = await kept(choosing("word500 "), [Passage(text)])
    assert len(engine.prompts) > 1
    assert "word500" in found[0].text
    assert found[0].tokens < 300


async def test_a_question_longer_than_the_context_is_refused() -> None:
    writer, _ = scripted(choosing("x"))
    compressor = Compressor(writer, NoGrammars(), PASSAGES, "why " * 500)
    with pytest.raises(ContextExceeded) as refused:
        await anext(compressor.kept())
    assert refused.value.param == "question"


async def test_a_full_queue_is_told_at_once() -> None:
    writer, engine = scripted(choosing("fine"))
    engine.refusals = 1
    with pytest.raises(QueueFull):
        await anext(Compressor(writer, NoGrammars(), PASSAGES, QUESTION).kept())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[3, 1]", [3, 1]),
        ("[]", []),
        ("[2,2, 9, 0]", [2]),
        ("[3, 1", [3]),
        ("[1", []),
        ("", []),
        ("NONE", []),
        ("[" + "9" * 5000 + "]", []),
    ],
)
def test_numbers(text: str, expected: list[int]) -> None:
    assert numbers_in(text, 5) == expected
