"""Markers in a model's text, whole and in pieces."""

from __future__ import annotations

import random

import pytest

from rag_backend.answering.markers import Marker, MarkerFilter, find_markers

CASES = [
    ("Twelve days [1].", "Twelve days [1]."),
    ("Twelve days [9].", "Twelve days."),
    ("Twelve days [1][9][2].", "Twelve days [1][2]."),
    ("Twelve days [1, 2].", "Twelve days [1][2]."),
    ("Twelve days [ 1;9 , 2 ].", "Twelve days [1][2]."),
    ("Twelve days [1, 1].", "Twelve days [1]."),
    ("Twelve days [8, 9].", "Twelve days."),
    ("One\n[1] two\n[9] three", "One\n[1] two\n three"),
    ("An array `a[9]` here [9].", "An array `a[9]` here."),
    ("``x ` [9]`` and [9]", "``x ` [9]`` and"),
    ("```\na[9] ` b[8]\n```\nend [9]", "```\na[9] ` b[8]\n```\nend"),
    ("a lone ` tick [9]\nnext [9]", "a lone ` tick [9]\nnext"),
    ("In [2024], [abc], [], [1.5], [1", "In [2024], [abc], [], [1.5], [1"),
    ("Điều 5 [1], khoản 2 [7]…", "Điều 5 [1], khoản 2…"),
    ("[1]", "[1]"),
    ("[9]", ""),
    ("  [9]  [1] ", "   [1] "),
    ("[" + "1, " * 30 + "1]", "[" + "1, " * 30 + "1]"),
    ("I do not know [1]. It is twelve [1].", "I do not know. It is twelve [1]."),
    ("Xin lỗi, tài liệu không đề cập [2].", "Xin lỗi, tài liệu không đề cập."),
    ("Thẻ [1] mất thì báo [2] ngay", "Thẻ [1] mất thì báo [2] ngay"),
]


def filtered(*pieces: str) -> str:
    markers = MarkerFilter([1, 2])
    return "".join(map(markers.feed, pieces)) + markers.close()


@pytest.mark.parametrize(("given", "shown"), CASES, ids=[case[0][:30] for case in CASES])
def test_what_is_shown(given: str, shown: str) -> None:
    assert filtered(given) == shown


@pytest.mark.parametrize(("given", "shown"), CASES, ids=[case[0][:30] for case in CASES])
def test_cutting_anywhere_changes_nothing(given: str, shown: str) -> None:
    for at in range(len(given) + 1):
        assert filtered(given[:at], given[at:]) == shown
    assert filtered(*given) == shown


def test_any_text_in_any_pieces() -> None:
    chance = random.Random(7)
    for _ in range(3000):
        text = "".join(chance.choices("[]12,; `\na.ệ9", k=chance.randrange(24)))
        pieces, rest = [], text
        while rest:
            size = chance.randrange(1, 5)
            pieces.append(rest[:size])
            rest = rest[size:]
        shown = filtered(*pieces)
        assert shown == filtered(text), (text, pieces)
        assert all(set(marker.numbers) <= {1, 2} for marker in find_markers(shown)), text


def test_text_is_shown_as_soon_as_it_can_be() -> None:
    markers = MarkerFilter([1])
    assert markers.feed("Twelve days") == "Twelve days"
    assert markers.feed(" [") == ""
    assert markers.feed("1") == ""
    assert markers.feed("] and") == " [1] and"
    assert markers.feed(" more") == " more"


def test_where_markers_are() -> None:
    text = "Twelve [1], two [1][2] `[2]` [1, 2]."
    found = list(find_markers(text))
    assert [text[m.start : m.end] for m in found] == ["[1]", "[1]", "[2]", "[1, 2]"]
    assert found[-1] == Marker((1, 2), 29, 35)
