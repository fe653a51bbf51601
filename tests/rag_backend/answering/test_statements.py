"""What a passage says."""

from __future__ import annotations

from rag_backend.answering.statements import Statement, statements

TABLE = "City | Street\n--- | ---\nHanoi | Le Loi 7. No lift\nHue | Hung Vuong 2"


def test_sentences() -> None:
    text = "# Leave\n\nTwelve days. After five years: two more.\n"
    listed = list(statements(text))
    assert [s.text for s in listed] == ["# Leave", "Twelve days.", "After five years: two more."]
    assert all(text[s.start :].startswith(s.text) and s.header is None for s in listed)


def test_rows_are_whole_and_know_their_columns() -> None:
    listed = list(statements(f"Offices:\n{TABLE}\nThat is all."))
    assert [s.text for s in listed] == [
        "Offices:",
        "Hanoi | Le Loi 7. No lift",
        "Hue | Hung Vuong 2",
        "That is all.",
    ]
    assert [s.header for s in listed] == [None, "City | Street", "City | Street", None]


def test_a_header_that_is_repeated_is_no_row() -> None:
    text = "City | Street\nHanoi | Le Loi 7\nCity | Street\nHue | Hung Vuong 2"
    assert [s.text for s in statements(text)] == ["Hanoi | Le Loi 7", "Hue | Hung Vuong 2"]


def test_a_row_that_stands_alone() -> None:
    assert list(statements("Hue | Hung Vuong 2")) == [Statement(0, "Hue | Hung Vuong 2")]
    assert list(statements(" \n ")) == []
