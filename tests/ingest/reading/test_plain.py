"""Plain text and law: paragraphs, wrapped or not, headings, articles and clauses."""

from __future__ import annotations

from ingest.document import Block
from ingest.reading.legal import parse
from ingest.reading.plain import paragraphs
from tests.ingest.reading.conftest import ReadBytes

LAW = """LUẬT
GIAO THÔNG ĐƯỜNG BỘ

Chương II
QUY TẮC GIAO THÔNG ĐƯỜNG BỘ

Mục 1. Quy tắc chung

Điều 9. Quy tắc chung
1. Người tham gia giao thông phải đi bên phải theo chiều đi của mình, đi đúng phần đường
quy định và phải chấp hành hệ thống báo hiệu đường bộ.
2. Xe ô tô có trang bị dây an toàn thì người lái xe phải thắt dây an toàn, theo quy định tại
Điều 5 của Luật này.
a) Điểm thứ nhất.
đ) Điểm thứ năm.

Điều 10. Hệ thống báo hiệu đường bộ
Hệ thống báo hiệu gồm hiệu lệnh của người điều khiển giao thông.
"""


def texts(blocks: tuple[Block, ...], kind: str) -> list[str]:
    return [block.text for block in blocks if block.kind == kind]


def test_law_becomes_headings_and_clauses(read_bytes: ReadBytes) -> None:
    blocks = read_bytes(LAW.encode(), "luật.txt").blocks
    headings = [(b.level, b.text) for b in blocks if b.kind == "heading"]
    assert headings == [
        (1, "LUẬT GIAO THÔNG ĐƯỜNG BỘ"),
        (3, "Chương II. QUY TẮC GIAO THÔNG ĐƯỜNG BỘ"),
        (4, "Mục 1. Quy tắc chung"),
        (6, "Điều 9. Quy tắc chung"),
        (6, "Điều 10. Hệ thống báo hiệu đường bộ"),
    ]
    clauses = texts(blocks, "list_item")
    assert clauses[0].endswith("phần đường quy định và phải chấp hành hệ thống báo hiệu đường bộ.")
    assert clauses[2:] == ["a) Điểm thứ nhất.", "đ) Điểm thứ năm."]


def test_what_is_a_legal_heading() -> None:
    for line, level in {
        "Phần thứ nhất": 2,
        "CHƯƠNG IV": 3,
        "Điều 12a. Tên điều": 6,
        "ĐIỀU 3: PHẠM VI": 6,
        "Article 7. Scope": 6,
        "Chapter 2 – Leave": 3,
    }.items():
        found = parse(line)
        assert found is not None, line
        assert (found.level, found.heading, found.rest) == (level, line, "")
    for line in ("Điều 5 của Luật này quy định", "Điều 5, khoản 2", "Section 3 describes leave"):
        assert parse(line) is None, line


def test_an_article_in_one_paragraph_keeps_its_text_in_the_body() -> None:
    found = parse("Điều 3. " + "Luật này áp dụng cho mọi cơ quan, tổ chức và cá nhân. " * 4)
    assert found is not None
    assert found.heading == "Điều 3"
    assert found.rest.startswith("Luật này áp dụng")


def test_hand_wrapped_lines_are_joined_and_short_ones_are_not() -> None:
    wrapped = (
        "Every employee has fourteen days of paid leave a year, which must be\n"
        "asked for three working days ahead, in the portal or by a letter to\n"
        "the manager.\n"
        "Sick leave needs no notice.\n\n"
        "Next paragraph here.\n"
    )
    assert [b.text for b in paragraphs(wrapped)] == [
        "Every employee has fourteen days of paid leave a year, which must be asked for three "
        "working days ahead, in the portal or by a letter to the manager.",
        "Sick leave needs no notice.",
        "Next paragraph here.",
    ]


def test_lines_without_wrapping_are_paragraphs_of_their_own() -> None:
    address = "Công ty Sao Mai\n12 Lê Lợi\nHuế\n" + "Một đoạn văn dài không xuống dòng. " * 8
    assert [b.text for b in paragraphs(address)][:3] == ["Công ty Sao Mai", "12 Lê Lợi", "Huế"]


def test_headings_underlined_in_capitals_or_numbered() -> None:
    text = (
        "Sổ tay\n======\n\nNghỉ phép\n---------\nMười bốn ngày.\n\nCHI PHÍ\nTối đa 20 USD.\n\n"
        "2.1 Đi lại\n\nTaxi.\n"
    )
    blocks = tuple(paragraphs(text))
    assert [(b.level, b.text) for b in blocks if b.kind == "heading"] == [
        (1, "Sổ tay"),
        (2, "Nghỉ phép"),
        (2, "CHI PHÍ"),
        (3, "2.1 Đi lại"),
    ]
