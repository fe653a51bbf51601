"""Dense weights from a text alone."""

from __future__ import annotations

import random

import pytest

from rag_backend.knowledge.calibration import (
    FEWEST_ITEMS,
    ITEMS_A_KIND,
    Trial,
    dense_weight,
    known_item,
    known_items,
)
from rag_backend.knowledge.fusion import DENSE_WEIGHT
from rag_backend.knowledge.models import StoredChunk

VIETNAMESE = (
    "Kho lạnh được giữ ở nhiệt độ hai độ. Nhân viên kho ghi nhiệt độ vào sổ mỗi buổi sáng. "
    "Khi máy hỏng phải báo ngay cho quản lý ca trực."
)
ENGLISH = (
    "The cold store is kept at two degrees. Staff write the temperature into the log each morning. "
    "When the machine fails the manager on duty is told at once."
)


def chunk(text: str, **values: str) -> StoredChunk:
    return StoredChunk(
        id="f:0",
        file_id="f",
        ordinal=0,
        filename="f.txt",
        text=text,
        start=0,
        end=len(text),
        page=None,
        heading_path=(),
        question=values.get("question"),
        answer=values.get("answer"),
    )


def found(right: int, n: int = 100) -> list[tuple[str, float]]:
    """A ranking of ten in which the target "t" has the place `right`, 0 being the first."""
    items = [f"x{n}-{place}" for place in range(10)]
    items.insert(right, "t")
    return [(item, 1.0 - place / 20) for place, item in enumerate(items[:10])]


def test_a_sentence_is_asked_of_what_is_left() -> None:
    item = known_item(chunk(ENGLISH))
    assert item is not None
    assert item.kind == "en"
    assert item.query in ENGLISH
    assert item.query not in item.rest
    assert item == known_item(chunk(ENGLISH))


def test_vietnamese_is_asked_without_diacritics_too() -> None:
    item = known_item(chunk(VIETNAMESE))
    assert item is not None
    assert item.queries.keys() == {"vi", "vi-unaccented"}
    assert item.queries["vi"] in VIETNAMESE
    assert item.queries["vi-unaccented"].isascii()


def test_a_row_of_questions_and_answers_asks_its_question() -> None:
    row = chunk("q: When? | a: At noon.", question="When is lunch?", answer="At noon.")
    item = known_item(row)
    assert item is not None
    assert (item.query, item.rest) == ("When is lunch?", "At noon.")


@pytest.mark.parametrize("text", ["", "One sentence only, and nothing else.", "?!\n\x00\n—"])
def test_too_little_text_asks_nothing(text: str) -> None:
    assert known_item(chunk(text)) is None


def test_items_are_bounded_and_no_text_is_asked_twice() -> None:
    texts = [ENGLISH, ENGLISH, *(f"{VIETNAMESE} Phòng số {n}." for n in range(ITEMS_A_KIND * 2))]
    kinds = [item.kind for item in known_items(chunk(text) for text in texts)]
    assert (kinds.count("en"), kinds.count("vi")) == (1, ITEMS_A_KIND)


def test_few_trials_say_nothing() -> None:
    trials = [Trial("t", [], found(0))] * (FEWEST_ITEMS - 1)
    assert dense_weight(trials) == DENSE_WEIGHT


def test_noise_gets_no_weight() -> None:
    chance = random.Random(1)
    trials = [Trial("t", found(chance.randrange(11)), found(0, 7)) for _ in range(200)]
    assert dense_weight(trials) < 0.1


def test_an_encoder_that_finds_what_words_do_not_gets_most() -> None:
    chance = random.Random(1)
    trials = [Trial("t", found(0), found(chance.randrange(11), 7)) for _ in range(200)]
    assert dense_weight(trials) > 0.6


def test_no_words_at_all() -> None:
    assert dense_weight([Trial("t", found(0), [])] * 50) >= DENSE_WEIGHT
    assert dense_weight([Trial("t", [], found(0))] * 50) < 0.05
    assert 0.0 <= dense_weight([Trial("t", [], [])] * 50) <= 1.0


def test_an_encoder_that_keeps_up_with_words_gets_the_greater_part() -> None:
    assert 0.5 < dense_weight([Trial("t", found(0), found(0))] * 200) < 0.7


def test_the_fewer_trials_the_nearer_to_the_prior() -> None:
    trial = Trial("t", found(0), found(9, 7))
    few, many = dense_weight([trial] * FEWEST_ITEMS), dense_weight([trial] * 200)
    assert DENSE_WEIGHT < few < many
