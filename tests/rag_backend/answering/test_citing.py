"""Which sources an answer gets, and where they point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rag_backend.answering.citing import Source, cite, cite_whole, openai_annotations
from tests.rag_backend.answering.fakes import source

URL = "http://here"
LEAVE = source("Employees have twelve days of annual leave. After five years they get two more.")
LUNCH = source("The lunch allowance is 45,000 VND for each day on site.", 2, page=3)
ROWS = source("City | Street | Manager\nHanoi | Ly Thuong Kiet | Minh\nHue | Le Loi | Hoa", 3)
SOURCES = [LEAVE, LUNCH, ROWS]


def cited(answer: str, sources: list[Source] = SOURCES, **options: Any) -> list[tuple[int, str]]:
    """(number, annotated text) of each citation."""
    found = cite(answer, sources, URL, **options)
    return [(c["index"], answer[c["start_index"] : c["end_index"]]) for c in found]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Twelve days [1].", [(1, "[1]")]),
        ("Lunch is 45,000 VND [2]. Leave is twelve days [1]. Lunch [2].", [(2, "[2]"), (1, "[1]")]),
        ("Both [1][2].", [(1, "[1]"), (2, "[2]")]),
        ("Code `x[1]` says nothing.", []),
        ("Nothing matches this at all, whatever one does.", []),
        ("Yes.", []),
        ("", []),
        # forgotten markers
        (
            "Employees have twelve days of annual leave.",
            [(1, "Employees have twelve days of annual leave.")],
        ),
        (
            "Sure! The lunch allowance is 45,000 VND each day. Enjoy it.",
            [(2, "The lunch allowance is 45,000 VND each day.")],
        ),
        # one forgotten, one not
        (
            "The lunch allowance is 45,000 VND each day. Leave is twelve days [1].",
            [(2, "The lunch allowance is 45,000 VND each day."), (1, "[1]")],
        ),
        # what rests on a source that is cited anyway gets no other
        ("Employees have twelve days of annual leave. After five years more [1].", [(1, "[1]")]),
    ],
)
def test_which_sources(answer: str, expected: list[tuple[int, str]]) -> None:
    assert cited(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "The sources do not contain the days of annual leave that employees have.",
        "I don't know how many days of annual leave employees have.",
        "Sorry, but I cannot find annual leave. Employees have twelve days of annual leave.",
        "The provided documents don’t mention employees' twelve days of annual leave.",
    ],
)
def test_not_knowing_rests_on_nothing(answer: str) -> None:
    assert cited(answer) == []


def test_not_knowing_in_vietnamese() -> None:
    text = "Nhân viên chính thức được nghỉ phép mười hai ngày mỗi năm."
    sources = [source(text)]
    assert cited(text, sources) == [(1, text)]
    for answer in (
        "Tài liệu không đề cập nhân viên chính thức được nghỉ phép bao nhiêu ngày mỗi năm.",
        "Tôi không biết nhân viên chính thức được nghỉ phép mấy ngày mỗi năm.",
        "Rất tiếc, không có thông tin về ngày nghỉ phép của nhân viên chính thức.",
    ):
        assert cited(answer, sources) == [], answer


def test_brackets_in_json_are_no_markers() -> None:
    answer = '{"days": [1], "of": [2]}'
    assert cited(answer, marked=False) == []


def test_everything_a_citation_says() -> None:
    (citation,) = cite("It is 45,000 VND [2].", SOURCES, URL)
    assert citation == {
        "index": 2,
        "file_id": "file-2",
        "filename": "doc-2.md",
        "page": 3,
        "heading_path": [],
        "quote": "The lunch allowance is 45,000 VND for each day on site.",
        "score": 0.5,
        "url": "http://here/v1/files/file-2/content#page=3",
        "start_index": 17,
        "end_index": 20,
    }
    assert openai_annotations([citation]) == [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": 17,
                "end_index": 20,
                "title": "doc-2.md, p. 3",
                "url": "http://here/v1/files/file-2/content#page=3",
            },
        }
    ]


@pytest.mark.parametrize(
    ("answer", "quote"),
    [
        ("Twelve days of leave [1].", "Employees have twelve days of annual leave."),
        ("Twelve. Then two more after five years [1].", "After five years they get two more."),
        ("Twelve. After five years two more.\n[1]", "After five years they get two more."),
        ("- [1] After five years, two more.\n- Yes", "After five years they get two more."),
        ("City: Hue; Street: Le Loi; Manager: Hoa [3]", "Hue | Le Loi | Hoa"),
        ("The manager of the street is Minh [3]", "Hanoi | Ly Thuong Kiet | Minh"),
    ],
)
def test_the_quote_is_what_supports_the_statement(answer: str, quote: str) -> None:
    (citation,) = cite(answer, SOURCES, URL)
    assert citation["quote"] == quote


def test_no_page_no_anchor() -> None:
    (citation,) = cite("Twelve [1].", SOURCES, URL)
    assert citation["url"] == "http://here/v1/files/file-1/content"


def test_the_page_of_what_is_quoted() -> None:
    """Chunks of pages 3 and 4 were read as one passage; the better one is on page 4."""
    best = replace(LUNCH.passage.best, page=4)
    merged = replace(LUNCH.passage, best=best, text=f"Dinner costs more.\n{best.text}", page=3)
    sources = [Source(1, merged)]
    assert cite("Lunch is 45,000 VND [1].", sources, URL)[0]["page"] == 4
    assert cite("Dinner costs more [1].", sources, URL)[0]["page"] == 3


def test_a_verbatim_answer() -> None:
    row = source("Wifi? | Ask the reception.", question="Wifi?", answer="Ask the reception.")
    citation = cite_whole("Ask the reception.", row, URL)
    assert (citation["start_index"], citation["end_index"]) == (0, 18)
    assert citation["quote"] == "Wifi? | Ask the reception."
