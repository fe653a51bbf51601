"""What a passage says, piece by piece."""

from __future__ import annotations

import pytest

from rag_backend.llm.statements import LONGEST_LIST, statements


@pytest.mark.parametrize(
    ("passage", "texts"),
    [
        ("", []),
        ("It costs 3.5 dong. TP. HCM pays.", ["It costs 3.5 dong.", "TP. HCM pays."]),
        ("## Leave\nTwelve days.", ["Leave", "Twelve days."]),
        ("- one\n* two\n3. three", ["one", "two", "three"]),
        ("Bring:\n- a pass;\n- photos.\nGo.", ["Bring: a pass; photos", "Go."]),
        ("a | b\n1 | 2\n3 | ", ["a: 1; b: 2", "a: 3"]),
        ("| a | b |\n| --- | --- |\n| 1 | 2 |\nafter", ["a: 1; b: 2", "after"]),
        ("a | b\n1 | 2\na | b\n3 | 4", ["a: 1; b: 2", "a: 3; b: 4"]),
        ("a | b\n1 | 2 | 3", ["a: 1; b: 2; 3"]),
        ("left | behind", ["left; behind"]),
    ],
)
def test_pieces(passage: str, texts: list[str]) -> None:
    assert [statement.text for statement in statements(passage)] == texts


def test_a_row_knows_its_cells() -> None:
    assert [s.cells for s in statements("a | b\n1 | 2\nplain")] == ["1 2", None]


def test_a_long_list_is_not_put_on_one_line() -> None:
    items = [f"- item number {n} of a long list" for n in range(40)]
    found = [s.text for s in statements("\n".join(["All of it:", *items]))]
    assert len(found) == 41
    assert max(map(len, found)) < LONGEST_LIST
