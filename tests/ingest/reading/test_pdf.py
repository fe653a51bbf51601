"""PDF: pages, paragraphs, headings, running heads, and PDFs that cannot be read."""

from __future__ import annotations

import zlib

import pytest

from tests.ingest.reading.conftest import ReadBytes, Refusal
from tests.ingest.reading.samples import pdf_bytes, vietnamese_font

Lines = list[tuple[float, float, str]]


def column(top: float, *lines: str) -> Lines:
    """Lines below each other, 14 points apart; "" leaves a gap."""
    return [(72, top + 14 * i, line) for i, line in enumerate(lines) if line]


def test_paragraphs_and_page_numbers(read_bytes: ReadBytes) -> None:
    pages = [
        column(
            72,
            "Every employee has fourteen days of paid leave each year, which must be asked",
            "for three working days ahead in the portal.",
            "",
            "Sick leave needs no notice, but a doctor's letter is to be handed in within five",
        ),
        column(72, "days of coming back.", "", "Second page, second paragraph."),
    ]
    blocks = read_bytes(pdf_bytes(pages), "a.pdf").blocks
    assert [(b.page, b.text) for b in blocks] == [
        (
            1,
            "Every employee has fourteen days of paid leave each year, which must be asked for "
            "three working days ahead in the portal.",
        ),
        (
            1,
            "Sick leave needs no notice, but a doctor's letter is to be handed in within five "
            "days of coming back.",
        ),
        (2, "Second page, second paragraph."),
    ]


def test_two_columns_and_wide_spacing(read_bytes: ReadBytes) -> None:
    left = ["The left column has lines that", "never reach the right edge of", "the page itself."]
    right = ["The right column is read after", "it, as it was written, and has", "its own margin."]
    page = [(72.0, 72.0 + 26 * i, text) for i, text in enumerate(left)]
    page += [(320.0, 72.0 + 26 * i, text) for i, text in enumerate(right)]
    blocks = read_bytes(pdf_bytes([page]), "a.pdf").blocks
    assert [b.text for b in blocks] == [" ".join(left), " ".join(right)]


def test_larger_lines_are_headings(read_bytes: ReadBytes) -> None:
    lines = column(
        60, "Handbook", "", "Leave", "", "Fourteen days a year, and one more after three."
    )
    data = pdf_bytes([lines], sizes={"Handbook": 22, "Leave": 16})
    blocks = read_bytes(data, "a.pdf").blocks
    assert [(b.kind, b.level) for b in blocks] == [("heading", 1), ("heading", 2), ("paragraph", 0)]


def test_running_heads_feet_and_page_numbers_go(read_bytes: ReadBytes) -> None:
    words = ("leave", "travel", "taxi", "lunch", "office")
    pages = [
        [
            (72.0, 30.0, "ACME handbook"),
            (72.0, 100.0, f"All about {word}."),
            (72.0, 200.0, f"And more {word}."),
            (72.0, 800.0, f"Page {number} of 5"),
        ]
        for number, word in enumerate(words, 1)
    ]
    blocks = read_bytes(pdf_bytes(pages), "a.pdf").blocks
    assert [b.text for b in blocks if b.page == 3] == ["All about taxi.", "And more taxi."]


@pytest.mark.skipif(vietnamese_font() is None, reason="no TrueType font with Vietnamese letters")
def test_vietnamese_law(read_bytes: ReadBytes) -> None:
    lines = column(
        72,
        "Chương II",
        "QUY TẮC GIAO THÔNG",
        "",
        "Điều 9. Quy tắc chung",
        "1. Người tham gia giao thông phải đi bên phải theo chiều đi của mình, đi đúng",
        "phần đường quy định.",
        "2. Xe ô tô có trang bị dây an toàn thì người lái xe phải thắt dây an toàn.",
    )
    blocks = read_bytes(pdf_bytes([lines], font=vietnamese_font()), "luật.pdf").blocks
    assert [(b.kind, b.text) for b in blocks] == [
        ("heading", "Chương II. QUY TẮC GIAO THÔNG"),
        ("heading", "Điều 9. Quy tắc chung"),
        (
            "list_item",
            "1. Người tham gia giao thông phải đi bên phải theo chiều đi của mình, đi đúng phần "
            "đường quy định.",
        ),
        (
            "list_item",
            "2. Xe ô tô có trang bị dây an toàn thì người lái xe phải thắt dây an toàn.",
        ),
    ]


def test_password(refusal: Refusal) -> None:
    data = pdf_bytes([[(72, 72, "Secret")]], password="s3cret")
    assert "password" in str(refusal(data, "a.pdf"))


def test_images_only(refusal: Refusal) -> None:
    assert "OCR" in str(refusal(pdf_bytes([[], []]), "scan.pdf"))


def test_no_pages(refusal: Refusal) -> None:
    data = (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\ntrailer<</Root 1 0 R/Size 3>>\n%%EOF\n"
    )
    assert "has no pages" in str(refusal(data, "a.pdf"))


def test_not_a_pdf_behind_the_mark(refusal: Refusal) -> None:
    assert "damaged" in str(refusal(b"%PDF-1.7\n" + zlib.compress(b"x" * 99), "a.pdf"))
