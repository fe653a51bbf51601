"""Word, PowerPoint and Excel, and what hostile archives get."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from pptx.util import Inches

from ingest.reading import archive
from tests.ingest.reading import samples
from tests.ingest.reading.conftest import ReadBytes, Refusal


def test_word_headings_lists_and_tables(read_bytes: ReadBytes) -> None:
    def build(document: Any) -> None:
        document.add_heading("Sổ tay nhân viên", 1)
        document.add_paragraph("Đoạn mở đầu.")
        document.add_heading("Nghỉ phép", 2)
        document.add_paragraph("Mười bốn ngày", style="List Bullet")
        document.add_paragraph("Điều 5. Thời giờ làm việc")
        table = document.add_table(rows=3, cols=2)
        for row, cells in zip(
            table.rows, [("Loại", "Ngày"), ("Năm", "14"), ("Ốm", "30")], strict=True
        ):
            row.cells[0].text, row.cells[1].text = cells

    blocks = read_bytes(samples.docx_bytes(build), "a.docx").blocks
    assert [(b.kind, b.level, b.text) for b in blocks] == [
        ("heading", 1, "Sổ tay nhân viên"),
        ("paragraph", 0, "Đoạn mở đầu."),
        ("heading", 2, "Nghỉ phép"),
        ("list_item", 0, "Mười bốn ngày"),
        ("heading", 6, "Điều 5. Thời giờ làm việc"),
        ("table_row", 0, "Năm | 14"),
        ("table_row", 0, "Ốm | 30"),
    ]
    assert blocks[-1].header == "Loại | Ngày"
    assert {b.page for b in blocks} == {None}


def test_slides_are_pages_and_titles_headings(read_bytes: ReadBytes) -> None:
    def build(presentation: Any) -> None:
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        slide.shapes.title.text = "Biển báo"
        slide.placeholders[1].text = "Biển cấm\nBiển nguy hiểm\nBiển hiệu lệnh"
        slide.notes_slide.notes_text_frame.text = "Nói chậm."
        untitled = presentation.slides.add_slide(presentation.slide_layouts[6])
        box = untitled.shapes.add_textbox(Inches(1), Inches(1), Inches(4), Inches(1))
        box.text_frame.text = "Tốc độ"
        cells = untitled.shapes.add_table(2, 2, Inches(1), Inches(3), Inches(4), Inches(1)).table
        for i, text in enumerate(("Đường", "km/h", "Phố", "50")):
            cells.cell(i // 2, i % 2).text = text

    blocks = read_bytes(samples.pptx_bytes(build), "a.pptx").blocks
    assert [(b.kind, b.page, b.text) for b in blocks] == [
        ("heading", 1, "Biển báo"),
        ("list_item", 1, "Biển cấm"),
        ("list_item", 1, "Biển nguy hiểm"),
        ("list_item", 1, "Biển hiệu lệnh"),
        ("paragraph", 1, "Nói chậm."),
        ("heading", 2, "Tốc độ"),
        ("table_row", 2, "Phố | 50"),
    ]


def test_presentation_without_text(refusal: Refusal) -> None:
    data = samples.pptx_bytes(lambda p: p.slides.add_slide(p.slide_layouts[6]))
    assert "contains no text" in str(refusal(data, "a.pptx"))


def test_sheets_rows_and_values(read_bytes: ReadBytes) -> None:
    rows = [
        ["BẢNG GIÁ 2026"],
        [],
        ["Món", "Giá", "Từ ngày", None],
        ["Phở", 45000.0, datetime.date(2026, 1, 2)],
        [None, None, None],
        ["Bún\nbò", 0.1 + 0.2, datetime.datetime(2026, 1, 2, 9, 30)],
    ]
    blocks = read_bytes(samples.xlsx_bytes({"Giá": rows, "Trống": []}), "a.xlsx").blocks
    assert [(b.kind, b.page, b.text) for b in blocks] == [
        ("heading", 1, "Giá"),
        ("paragraph", 1, "BẢNG GIÁ 2026"),
        ("table_row", 1, "Phở | 45000 | 2026-01-02"),
        ("table_row", 1, "Bún bò | 0.3 | 2026-01-02 09:30"),
    ]
    assert blocks[2].header == "Món | Giá | Từ ngày"


def test_question_and_answer_sheet(read_bytes: ReadBytes) -> None:
    rows = [
        ["STT", " CÂU HỎI: ", "Đáp  án"],
        [1, "Tốc độ tối đa?", "50 km/h.\nTrong khu dân cư."],
        [2, "Chưa trả lời", None],
    ]
    _, first, second = read_bytes(samples.xlsx_bytes({"FAQ": rows}), "a.xlsx").blocks
    assert (first.question, first.answer) == ("Tốc độ tối đa?", "50 km/h.\nTrong khu dân cư.")
    assert first.text == "1 | Tốc độ tối đa? | 50 km/h. Trong khu dân cư."
    assert second.question is None
    assert second.text == "2 | Chưa trả lời"


def test_zip_bombs_are_not_opened(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = samples.zip_bytes({"word/document.xml": bytes(70 * 1024**2)})
    assert "zip bomb" in str(refusal(bomb, "a.docx"))
    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    data = samples.docx_bytes(lambda d: d.add_paragraph("Text"))
    assert "zip bomb" in str(refusal(data, "a.docx"))
    monkeypatch.setattr(archive, "MOST_BYTES", 10**9)
    monkeypatch.setattr(archive, "MOST_MEMBERS", 3)
    assert "parts" in str(refusal(data, "a.docx"))


@pytest.mark.parametrize(
    ("member", "name"),
    [
        ("word/document.xml", "a.docx"),
        ("ppt/presentation.xml", "a.pptx"),
        ("xl/workbook.xml", "a.xlsx"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entity_bombs_are_not_opened(
    refusal: Refusal, member: str, name: str, encoding: str
) -> None:
    xml = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY a "aaa">]><x>&a;</x>'
    assert "entities" in str(refusal(samples.zip_bytes({member: xml.encode(encoding)}), name))


def test_office_archive_without_its_parts(refusal: Refusal) -> None:
    for member, name in (("word/document.xml", "a.docx"), ("xl/workbook.xml", "a.xlsx")):
        assert "damaged" in str(refusal(samples.zip_bytes({member: "<x/>"}), name))


def test_word_inserted_text_and_content_controls_are_read(read_bytes: ReadBytes) -> None:
    def build(document: Any) -> None:
        paragraph = document.add_paragraph("Thời hạn là ")
        for markup in (
            '<w:ins {0} w:id="1" w:author="A"><w:r><w:t xml:space="preserve">30 ngày, </w:t></w:r>'
            "</w:ins>",
            "<w:sdt {0}><w:sdtContent><w:r><w:t>gia hạn được</w:t></w:r></w:sdtContent></w:sdt>",
            '<w:del {0} w:id="2" w:author="A"><w:r><w:delText>15 ngày</w:delText></w:r></w:del>',
        ):
            paragraph._p.append(parse_xml(markup.format(nsdecls("w"))))

    blocks = read_bytes(samples.docx_bytes(build), "a.docx").blocks
    assert [b.text for b in blocks] == ["Thời hạn là 30 ngày, gia hạn được"]
