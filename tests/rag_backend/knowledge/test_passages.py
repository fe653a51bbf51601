"""Chunks and their neighbours as one text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rag_backend.knowledge.models import StoredChunk
from rag_backend.knowledge.passages import (
    Hit,
    Passage,
    merge_neighbours,
    neighbour_ids,
    with_neighbours,
)

MakeHit = Callable[..., Hit]


@pytest.fixture
def hit() -> MakeHit:
    """A hit in file "f" with the given ordinal."""

    def make(ordinal: int, score: float = 0.5, file: str = "f", **values: Any) -> Hit:
        fields: dict[str, Any] = {
            "heading_path": ("H",),
            "question": None,
            "answer": None,
            "page": ordinal,
            "text": f"text {ordinal:03}",
            "start": ordinal * 10,
            "end": ordinal * 10 + 8,
        }
        chunk = StoredChunk(
            id=f"{file}:{ordinal}",
            file_id=file,
            ordinal=ordinal,
            filename="f.md",
            **(fields | values),
        )
        return Hit(chunk, score, score)

    return make


@pytest.fixture
def document(hit: MakeHit) -> dict[str, StoredChunk]:
    """Twenty chunks, and only those, by id."""
    return {f"f:{n}": hit(n).chunk for n in range(20)}


def joined(passages: list[Passage]) -> list[str]:
    return [passage.text.replace("text 0", "") for passage in passages]


def test_hits_side_by_side_become_one_passage(hit: MakeHit) -> None:
    passages = merge_neighbours([hit(3, 0.9), hit(7, 0.8), hit(2, 0.7), hit(4, 0.95)])
    assert joined(passages) == ["02\n03\n04", "07"]
    first = passages[0]
    assert (first.start, first.end, first.page, first.best.ordinal) == (20, 48, 2, 3)
    assert (first.score, first.relevance) == (0.9, 0.95)


def test_other_files_headings_and_answers_are_no_neighbours(hit: MakeHit) -> None:
    assert len(merge_neighbours([hit(1), hit(2, file="g")])) == 2
    assert len(merge_neighbours([hit(1), hit(2, heading_path=("Other",))])) == 2
    rows = [hit(n, question="q", answer="a") for n in (1, 2)]
    assert len(merge_neighbours(rows)) == 2


def test_no_hits_no_passages() -> None:
    assert merge_neighbours([]) == []
    assert with_neighbours([], {}, 5) == []
    assert neighbour_ids([]) == set()


def test_a_hit_comes_with_what_stands_beside_it(
    hit: MakeHit, document: dict[str, StoredChunk]
) -> None:
    hits = [hit(5, 0.9), hit(0, 0.8), hit(19, 0.7)]
    assert neighbour_ids(hits) == {"f:4", "f:6", "f:1", "f:18", "f:20"}
    passages = with_neighbours(hits, document, 5)
    assert joined(passages) == ["04\n05\n06", "00\n01", "18\n19"]
    first = passages[0]
    assert (first.start, first.end, first.page, first.best.ordinal) == (40, 68, 4, 5)
    assert (first.score, first.relevance) == (0.9, 0.9)


def test_no_chunk_is_shown_twice(hit: MakeHit, document: dict[str, StoredChunk]) -> None:
    hits = [hit(5, 0.9), hit(6, 0.95), hit(7, 0.8), hit(8, 0.7), hit(12, 0.6)]
    passages = with_neighbours(hits, document, 3)
    assert joined(passages) == ["04\n05\n06", "07\n08", "11\n12\n13"]
    assert passages[0].relevance == 0.95
    assert joined(with_neighbours(hits, document, 1)) == ["04\n05\n06"]


def test_another_section_is_not_read_with_it(
    hit: MakeHit, document: dict[str, StoredChunk]
) -> None:
    document["f:4"] = hit(4, heading_path=("Other",)).chunk
    assert joined(with_neighbours([hit(5)], document, 1)) == ["05\n06"]


def test_a_tables_header_stands_above_its_rows_once(hit: MakeHit) -> None:
    rows = {
        f"f:{n}": hit(n, text=f"Name | Age\nrow {n:04}", start=n * 10, end=n * 10 + 8).chunk
        for n in range(3)
    }
    (passage,) = with_neighbours([hit(1, text=rows["f:1"].text)], rows, 1)
    assert passage.text == "Name | Age\nrow 0000\nrow 0001\nrow 0002"


def test_windows_that_overlap_or_touch_are_one_text(hit: MakeHit) -> None:
    whole = "交通規則を守る人と守らない人"
    spans = [(0, 6), (4, 9), (9, 14)]
    hits = [hit(n, text=whole[a:b], start=a, end=b) for n, (a, b) in enumerate(spans)]
    (passage,) = merge_neighbours(hits)
    assert passage.text == whole
