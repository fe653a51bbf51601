"""Passages into fewer tokens."""

from __future__ import annotations

import pytest

from rag_backend.answering.condensing import Condenser, pick_sentences
from rag_backend.errors import UpstreamUnavailable
from rag_backend.llm.provider import LLMProvider
from rag_backend.llm.streams import estimate_tokens
from tests.rag_backend.answering.fakes import Scripted, Silent, source

SOURCES = [
    source("Leave is twelve days. Cats are nice. Dogs are nice, too."),
    source("Lunch is free. Leave can be carried over.", 2),
]
WEIGHTS = {"leav": 1.0, "day": 0.5}
QUESTION = "How many days of leave?"


def texts(sources: object) -> list[str]:
    return [s.passage.text for s in sources]  # type: ignore[attr-defined]


async def test_nothing_is_done_within_the_budget() -> None:
    condensed = await Condenser("auto", 100, Scripted("x")).condense(SOURCES, QUESTION, WEIGHTS)
    assert condensed.sources == tuple(SOURCES)
    assert condensed.method == "none"
    assert condensed.tokens_before == condensed.tokens_after


async def test_never_means_never() -> None:
    condensed = await Condenser("never", 1, Scripted("x")).condense(SOURCES, QUESTION, WEIGHTS)
    assert condensed.method == "none"


@pytest.mark.parametrize(("policy", "budget"), [("auto", 20), ("always", 100)])
async def test_the_local_model(policy: str, budget: int) -> None:
    local = Scripted("Twelve days.")
    condenser = Condenser(policy, budget, local)  # type: ignore[arg-type]
    condensed = await condenser.condense(SOURCES, QUESTION, WEIGHTS)
    assert texts(condensed.sources) == ["Twelve days.", "Twelve days."]
    assert [s.number for s in condensed.sources] == [1, 2]
    assert condensed.method == "model"
    assert condensed.tokens_after < condensed.tokens_before
    assert all(r.options["temperature"] == 0 for r in local.requests)
    assert QUESTION in local.prompt


@pytest.mark.parametrize(
    "local",
    [
        None,
        Silent(),
        Scripted(UpstreamUnavailable("It is away.")),
        Scripted("Tw", UpstreamUnavailable("It went away.")),
        Scripted("Twelve", finish=None),
        Scripted("Twelve days", finish="length"),
        Scripted("NONE."),
        Scripted(""),
        Scripted("far too long " * 50),
    ],
    ids=["absent", "slow", "failing", "dying", "cut", "endless", "nothing", "empty", "long"],
)
async def test_sentences_where_it_cannot(local: LLMProvider | None) -> None:
    condenser = Condenser("auto", 20, local, patience=0.01)
    condensed = await condenser.condense(SOURCES, QUESTION, WEIGHTS)
    assert condensed.method == "extractive"
    assert texts(condensed.sources) == ["Leave is twelve days.", "Leave can be carried over."]
    assert condensed.tokens_after <= 20


async def test_a_slow_model_is_let_go() -> None:
    local = Silent()
    await Condenser("auto", 20, local, patience=0.01).condense(SOURCES, QUESTION, WEIGHTS)
    assert local.closed == len(local.requests) > 0


async def test_a_defect_is_not_hidden() -> None:
    condenser = Condenser("auto", 20, Scripted(KeyError("defect")))
    with pytest.raises(ExceptionGroup):
        await condenser.condense(SOURCES, QUESTION, WEIGHTS)


def test_rows_come_with_their_columns() -> None:
    table = source("City | Manager\nHue | Hoa\nHanoi | Minh\nVinh | Nga")
    (picked,) = pick_sentences([table], {"hanoi": 1.0}, 12)
    assert picked.passage.text == "City | Manager\nHanoi | Minh"
    (picked,) = pick_sentences([table], {"hanoi": 1.0, "hue": 1.0}, 16)
    assert picked.passage.text == "City | Manager\nHue | Hoa\nHanoi | Minh"


def test_a_sentence_longer_than_the_budget_is_cut() -> None:
    long = source("leave " * 500 + "ends.")
    (picked,) = pick_sentences([long], {"leav": 1.0}, 50)
    assert 0 < estimate_tokens(picked.passage.text) <= 50
    assert pick_sentences([], {}, 50) == ()


def test_the_text_keeps_its_order() -> None:
    both = source("Days count. Nothing here. Leave counts in days.")
    (picked,) = pick_sentences([both], {"leav": 1.0, "day": 1.0}, 14)
    assert picked.passage.text == "Days count.\nLeave counts in days."
