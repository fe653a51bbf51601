"""Which passages a question is answered from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from rag_backend.answering.finding import CHUNKS, find, of_named_part, typed_bare
from rag_backend.knowledge.models import Store, StoredChunk
from rag_backend.knowledge.passages import Hit, Passage
from tests.rag_backend.answering.fakes import STORE, chunk


class Answering:
    """A library whose searches find what they are said to, and nothing else."""

    def __init__(self, found: Mapping[str, Sequence[tuple[StoredChunk, float]]]) -> None:
        self._found = found
        self.queries: list[str] = []

    async def search(self, _store: Store, query: str, k: int) -> list[Hit]:
        assert k == CHUNKS
        self.queries.append(query)
        return [Hit(c, relevance, relevance) for c, relevance in self._found.get(query, ())]


def passage(text: str, number: int = 1, *headings: str, **fields: Any) -> Passage:
    best = chunk(text, number, heading_path=headings, **fields)
    return Passage(best, text, 0, len(text), None, 1.0, 1.0)


THREE = passage("1. Từ 15 tuổi.\n2. Lệ phí 40.000 đồng.", 1, "Chương II", "Điều 3. Thẻ")
FOUR = passage("Mượn tối đa 5 cuốn.", 2, "Chương II", "Điều 4. Mượn sách")
CITING = passage("Người vi phạm bị xử lý theo Điều 30 của luật.", 3)
ALL = [FOUR, THREE, CITING]


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("Thẻ có giá bao nhiêu?", ALL),
        ("Điều 3 quy định gì?", [THREE]),
        ("Article 3, clause 2", [THREE]),
        ("Khoản 2 Điều 3", [THREE]),
        ("Khoản 5 Điều 3", []),
        ("Khoản 5 Điều 4", [FOUR]),  # it has no numbered clauses at all
        ("Theo khoản 5 Điều 3, lệ phí bao nhiêu?", [THREE]),
        ("Theo Điều 35 Bộ luật Lao động, phải báo trước mấy ngày?", ALL),
        ("Những điều vi phạm nội quy bị xử lý thế nào?", ALL),
        ("Muc vi pham nong do con bi phat bao nhieu?", ALL),
        ("Which section I'd have to fill in?", ALL),
        ("Hạng mục xi măng giá bao nhiêu?", ALL),
        ("Chương 2 có gì?", [FOUR, THREE]),
        ("dieu 30 noi gi", [CITING]),
        ("Điều 27 quy định gì?", []),
    ],
)
def test_a_part_that_is_named_answers_alone(question: str, found: list[Passage]) -> None:
    assert of_named_part(question, ALL) == found


async def test_each_of_several_questions_is_looked_up() -> None:
    boiler, meals, both = chunk("Boiler.", 1), chunk("Meals.", 2), chunk("Both.", 3)
    asked = "How is the boiler started, and how much is refunded for meals?"
    library = Answering(
        {
            asked: [(both, 0.6), (boiler, 0.4), (meals, 0.4)],
            "How is the boiler started": [(boiler, 1.0), (meals, 0.1)],
            "how much is refunded for meals?": [(meals, 0.9), (boiler, 0.2)],
        }
    )
    passages = await find(cast(Any, library), STORE, asked)
    assert [p.text for p in passages] == ["Boiler.", "Meals.", "Both."]


async def test_a_question_that_needs_the_other_is_not_looked_up_alone() -> None:
    asked = "How many days of annual leave, and who approves it?"
    library = Answering({asked: [(chunk("Leave."), 0.7), (chunk("Other.", 2), 0.4)]})
    passages = await find(cast(Any, library), STORE, asked)
    assert [p.text for p in passages] == ["Leave."]
    assert library.queries == [asked, "How many days of annual leave"]


async def test_one_question_is_looked_up_once() -> None:
    library = Answering({})
    assert await find(cast(Any, library), STORE, "Who repairs doors and locks?") == []
    assert library.queries == ["Who repairs doors and locks?"]


def test_two_rows_that_are_alike_without_diacritics_are_not_chosen_between() -> None:
    sale = passage("r", 1, question="Bán ở đâu?", answer="Quầy 2.")
    friend = passage("r", 2, question="Bạn ở đâu?", answer="Hà Nội.")
    assert typed_bare("ban o dau", [sale, friend]) is None
    assert typed_bare("ban o dau", [sale, sale]) == sale.best
    assert typed_bare("Bạn ở đâu?", [sale]) is None
    assert typed_bare("ban o dau", [passage("ban o dau")]) is None
