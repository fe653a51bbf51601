"""From bytes to chunks: each format is cut along its own structure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ingest.chunking import split
from ingest.document import Chunk
from ingest.reading.registry import read
from tests.ingest.reading import samples

MOST = 60


def by_words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def chunks(folder: Path, data: bytes, name: str) -> list[Chunk]:
    path = folder / "upload.bin"
    path.write_bytes(data)
    made = split(read(path, name), by_words, MOST)
    assert all(by_words(chunk.indexed_text) <= MOST for chunk in made)
    return made


def paths(made: list[Chunk]) -> dict[tuple[str, ...], str]:
    """The text under each heading path."""
    found: dict[tuple[str, ...], str] = {}
    for chunk in made:
        found[chunk.heading_path] = f"{found.get(chunk.heading_path, '')}{chunk.text}\n"
    return found


MARKDOWN = "# Sổ tay\n\nMở đầu.\n\n## Nghỉ phép\n\nMười bốn ngày.\n\n## Chi phí\n\nTaxi 20 USD.\n"
HTML = (
    "<html><body><main><h1>Sổ tay</h1><p>Mở đầu.</p><h2>Nghỉ phép</h2><p>Mười bốn ngày.</p>"
    "<h2>Chi phí</h2><p>Taxi 20 USD.</p></main></body></html>"
)


def word() -> bytes:
    def build(document: Any) -> None:
        document.add_heading("Sổ tay", 1)
        document.add_paragraph("Mở đầu.")
        document.add_heading("Nghỉ phép", 2)
        document.add_paragraph("Mười bốn ngày.")
        document.add_heading("Chi phí", 2)
        document.add_paragraph("Taxi 20 USD.")

    return samples.docx_bytes(build)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.md", MARKDOWN.encode()), ("a.html", HTML.encode()), ("a.docx", word())],
)
def test_headings_part_chunks(folder: Path, name: str, data: bytes) -> None:
    assert paths(chunks(folder, data, name)) == {
        ("Sổ tay",): "Mở đầu.\n",
        ("Sổ tay", "Nghỉ phép"): "Mười bốn ngày.\n",
        ("Sổ tay", "Chi phí"): "Taxi 20 USD.\n",
    }


def test_law_is_cut_by_article_and_then_by_clause(folder: Path) -> None:
    clauses = [
        f"{n}. Người điều khiển xe vi phạm khoản {n} bị phạt {n} triệu đồng và bị giữ giấy phép."
        for n in range(1, 9)
    ]
    law = "\n".join(
        [
            *("Chương II", "QUY TẮC GIAO THÔNG", "Mục 1. Tốc độ"),
            *("Điều 5. Mức phạt", *clauses, "Điều 6. Hiệu lực", "Luật có hiệu lực từ năm 2025."),
        ]
    )
    made = chunks(folder, law.encode(), "luat.txt")
    chapter = ("Chương II. QUY TẮC GIAO THÔNG", "Mục 1. Tốc độ")
    assert {chunk.heading_path for chunk in made} == {
        (*chapter, "Điều 5. Mức phạt"),
        (*chapter, "Điều 6. Hiệu lực"),
    }
    article = [chunk.text for chunk in made if "Điều 5. Mức phạt" in chunk.heading_path]
    assert len(article) > 1
    assert "\n".join(article).split("\n") == clauses  # none is cut, none is lost


def test_slides_are_not_joined(folder: Path) -> None:
    def build(presentation: Any) -> None:
        for title, body in (("Biển cấm", "Cấm đỗ."), ("Biển báo", "Đường trơn.")):
            slide = presentation.slides.add_slide(presentation.slide_layouts[1])
            slide.shapes.title.text, slide.placeholders[1].text = title, body

    made = chunks(folder, samples.pptx_bytes(build), "a.pptx")
    assert [(c.page, c.heading_path, c.text) for c in made] == [
        (1, ("Biển cấm",), "Cấm đỗ."),
        (2, ("Biển báo",), "Đường trơn."),
    ]


ROWS = [[f"Xe loại {n}", f"{n} triệu đồng"] for n in range(40)]


@pytest.mark.parametrize("name", ["a.xlsx", "a.csv", "a.md", "a.html"])
def test_rows_stay_whole_under_their_header(folder: Path, name: str) -> None:
    table = [["Loại xe", "Mức phạt"], *ROWS]
    cells = {
        "a.csv": "\n".join(",".join(row) for row in table),
        "a.md": "\n".join(
            f"| {' | '.join(row)} |" for row in (table[0], ["---", "---"], *table[1:])
        ),
        "a.html": "<table>{}</table>".format(
            "".join(f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in table)
        ),
    }
    data = samples.xlsx_bytes({"Phạt": table}) if name == "a.xlsx" else cells[name].encode()
    made = chunks(folder, data, name)
    assert len(made) > 3
    rows = []
    for chunk in made:
        header, *body = chunk.text.split("\n")
        assert header == "Loại xe | Mức phạt"
        rows += body
    assert rows == [" | ".join(row) for row in ROWS]


def test_prose_is_cut_between_sentences(folder: Path) -> None:
    text = " ".join(f"Câu thứ {n} nói về điều gì đó khác hẳn câu trước." for n in range(30))
    made = chunks(folder, text.encode(), "a.txt")
    assert len(made) > 3
    assert all(chunk.text.startswith("Câu") and chunk.text.endswith(".") for chunk in made)
