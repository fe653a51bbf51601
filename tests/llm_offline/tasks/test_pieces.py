"""Texts in pieces and in sentences: nothing lost, nothing too long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_offline.tasks.pieces import cut, sentences


def words(text: str) -> int:
    return len(re.findall(r"\S{1,4}", text))


@given(
    st.text(alphabet="ab điềuộ.?。\n \u0301", max_size=400),
    st.integers(1, 30),
)
def test_pieces_are_the_text_and_fit(text: str, room: int) -> None:
    pieces = cut(text, room, words)
    assert "".join(pieces) == text
    assert all(words(piece) <= room for piece in pieces)


def test_pieces_are_about_equally_long() -> None:
    text = "Every employee has twelve days of paid leave. " * 100
    sizes = [words(piece) for piece in cut(text, 300, words)]
    assert len(sizes) == -(-words(text) // 300)
    assert min(sizes) > 0.8 * max(sizes)


def test_a_text_is_cut_between_paragraphs_first_then_sentences() -> None:
    first, second = "One is here. Two too. " * 9, "Three is there. Four as well. " * 7
    assert cut(f"{first}\n\n{second}", 100, words) == [f"{first}\n\n", second]
    assert all(piece.endswith(". ") for piece in cut(first, 30, words))


def test_what_stands_around_a_piece_counts() -> None:
    pieces = cut("word " * 100, 30, lambda piece: words(piece) + 20)
    assert [words(piece) for piece in pieces] == [10] * 10


def test_a_text_without_spaces_is_cut_too() -> None:
    text = "条文规定驾驶人必须佩戴头盔" * 50
    pieces = cut(text, 20, words)
    assert "".join(pieces) == text
    assert all(words(piece) <= 20 for piece in pieces)


def test_no_accent_is_parted_from_its_letter() -> None:
    text = "e\u0301" * 40
    assert not any(piece.startswith("\u0301") for piece in cut(text, 3, words))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Điều 5. Mức phạt tiền. Người đi bộ.", ["Điều 5. Mức phạt tiền.", "Người đi bộ."]),
        ("Ở TP. Hồ Chí Minh. Và ThS. An.", ["Ở TP. Hồ Chí Minh.", "Và ThS. An."]),
        ("It costs 1.500.000 đồng a day.", ["It costs 1.500.000 đồng a day."]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("第一条。第二条。", ["第一条。", "第二条。"]),
        ("  a line\n\n- an item\n| a | row |\n", ["a line", "- an item", "| a | row |"]),
        (" \n\t\n", []),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected
