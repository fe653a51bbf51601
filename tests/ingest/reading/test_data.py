"""CSV, JSON and JSON Lines, and question/answer rows in each."""

from __future__ import annotations

import unicodedata

import pytest

from ingest.reading.tables import question_and_answer
from tests.ingest.reading.conftest import ReadBytes, Refusal
from tests.ingest.reading.samples import cp1258


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiters(read_bytes: ReadBytes, delimiter: str) -> None:
    rows = [["Thành phố", "Dân số", "Vùng"], ["Huế", "1.2", "Trung"], ["Cần Thơ", "1.3", "Nam"]]
    text = "\r\n".join(delimiter.join(row) for row in rows)
    blocks = read_bytes(text.encode("utf-8-sig"), "a.csv").blocks
    assert [b.text for b in blocks] == ["Huế | 1.2 | Trung", "Cần Thơ | 1.3 | Nam"]
    assert blocks[0].header == "Thành phố | Dân số | Vùng"


def test_semicolons_with_decimal_commas_and_quoted_cells(read_bytes: ReadBytes) -> None:
    text = 'Món;Giá\n"Phở; bò";45,5\n"Bún ""Huế""\nđặc biệt";40,0\n'
    blocks = read_bytes(text.encode(), "a.csv").blocks
    assert [b.text for b in blocks] == ["Phở; bò | 45,5", 'Bún "Huế" đặc biệt | 40,0']


def test_csv_as_excel_declares_it(read_bytes: ReadBytes) -> None:
    assert read_bytes(b"sep=;\na;b\n1;2\n", "a.csv").blocks[0].text == "1 | 2"


def test_csv_of_one_column_and_of_a_header_alone(read_bytes: ReadBytes) -> None:
    assert [b.kind for b in read_bytes(b"name\nAn\nBinh\n", "a.csv").blocks] == ["paragraph"] * 3
    assert [b.text for b in read_bytes(b"name,age\n", "a.csv").blocks] == ["name | age"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("question", "answer"),
        ("Q", "A"),
        ("Câu hỏi", "Trả lời"),
        ("CÂU  HỎI (*)", "Đáp án:"),
        ("hỏi", "câu trả lời"),
        (unicodedata.normalize("NFD", "Câu hỏi"), unicodedata.normalize("NFD", "giải đáp")),
        ("cau hoi", "tra loi"),
        ("Question (EN)", "Answer (EN)"),
        ("Câu hỏi / Question", "Câu trả lời / Answer"),
        ("Câu hỏi của khách hàng", "Câu trả lời mẫu"),
        ("Nội dung hỏi", "Nội dung giải đáp"),
    ],
)
def test_headers_of_curated_sheets(question: str, answer: str) -> None:
    assert question_and_answer(["id", answer, question]) == (2, 1)


def test_other_headers_are_not_curated() -> None:
    assert question_and_answer(["câu hỏi", "điểm"]) is None
    assert question_and_answer(["Đáp án A", "Đáp án B", "Câu hỏi"]) is None
    assert question_and_answer(["Question type", "Answer"]) is None


def test_curated_csv_in_an_old_encoding(read_bytes: ReadBytes) -> None:
    text = "Câu hỏi;Trả lời\nTốc độ tối đa là bao nhiêu?;50 km/h trong khu vực đông dân cư.\n"
    (row,) = read_bytes(cp1258(text), "faq.csv").blocks
    assert row.question == "Tốc độ tối đa là bao nhiêu?"
    assert row.answer == "50 km/h trong khu vực đông dân cư."


def test_curated_json_lines_and_json(read_bytes: ReadBytes) -> None:
    lines = '{"question": "How many days?", "answer": "14", "tag": "leave"}\n\n{"note": "x"}\n'
    first, second = read_bytes(lines.encode(), "a.jsonl").blocks
    assert (first.question, first.answer) == ("How many days?", "14")
    assert first.text == "How many days? | 14 | leave"
    assert second.text == "note: x"
    (row,) = read_bytes('[{"Câu hỏi": "Mấy ngày?", "Đáp án": 14}]'.encode(), "a.json").blocks
    assert (row.question, row.answer) == ("Mấy ngày?", "14")
    assert read_bytes(lines.encode(), "a.json").blocks[0].question == "How many days?"


def test_json_objects_read_as_lines(read_bytes: ReadBytes) -> None:
    data = """{"name": "Sao Mai", "address": {"city": "Huế"}, "tags": ["a", "b"], "none": null,
      "open": true, "staff": [{"name": "An"}, {"name": "Bình", "phones": [{"no": 1}]}]}"""
    blocks = read_bytes(data.encode(), "a.json").blocks
    assert [b.text for b in blocks] == [
        "name: Sao Mai\naddress.city: Huế\ntags: a, b\nopen: true",
        "staff",
        "name: An",
        "name: Bình\nphones[1].no: 1",
    ]
    assert blocks[1].kind == "heading"


def test_json_that_is_not_json_names_the_place(refusal: Refusal) -> None:
    assert "line 2, column 6" in str(refusal(b'{"a": 1,\n "b" 2}', "a.json"))
    assert "line 3, column 2" in str(refusal(b'{"a": 1}\n\n{a}\n', "a.jsonl"))
    assert "line 1, column 1" in str(refusal(b"hello", "a.json"))


def test_json_oddities(read_bytes: ReadBytes, refusal: Refusal) -> None:
    assert read_bytes(b'{"a": "x\\ud800\\u0000y"}', "a.json").blocks[0].text == "a: xy"
    assert "nested too deeply" in str(refusal(b"[" * 100_000, "a.json"))
    assert "contains no text" in str(refusal(b"{}", "a.json"))
    assert "contains no text" in str(refusal(b"[null, []]", "a.json"))
    assert "not JSON" in str(refusal(b"1" * 10_000, "a.json"))
