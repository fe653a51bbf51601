"""PowerPoint presentations: a slide is a page, its title a heading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pptx import Presentation
from pptx.util import Length

from ingest.document import Block, Document
from ingest.reading import archive, tables
from ingest.reading.cleaning import one_line

_LONGEST_TITLE = 100


def read(path: Path, name: str) -> Document:
    """Blocks of all slides in order, their notes last.

    Raises:
        UnreadableFile: it is damaged, protected or a bomb.
    """
    archive.check(path, name)
    presentation = Presentation(str(path))
    blocks: list[Block] = []
    for number, slide in enumerate(presentation.slides, 1):
        blocks += _slide(slide, number)
    return Document(tuple(blocks), presentation.core_properties.title or None)


def _slide(slide: Any, number: int) -> list[Block]:
    """The slide under a heading always: it is what keeps slides apart in chunking."""
    title = slide.shapes.title
    body: list[Block] = []
    for shape in sorted(_flat(slide.shapes), key=_position):
        if title is None or shape.shape_id != title.shape_id:
            body += _shape(shape, number)
    heading = one_line(title.text_frame.text) if title is not None else ""
    if slide.has_notes_slide:
        notes = slide.notes_slide.notes_text_frame
        body += _paragraphs(notes, number) if notes is not None else []
    if not heading and body and body[0].kind != "table_row":
        first = body[0].text
        heading, body = (first, body[1:]) if len(first) <= _LONGEST_TITLE else (heading, body)
    if not heading and not body:
        return []
    return [Block("heading", heading or f"Slide {number}", level=1, page=number), *body]


def _flat(shapes: Iterable[Any]) -> Iterator[Any]:
    """Shapes, those inside groups too."""
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _flat(shape.shapes)
        else:
            yield shape


def _position(shape: Any) -> tuple[int, int]:
    """Reading order: in bands of half an inch from the top, then from the left."""
    top, left = shape.top or Length(0), shape.left or Length(0)
    return int(top) // 457_200, int(left)


def _shape(shape: Any, page: int) -> list[Block]:
    if getattr(shape, "has_table", False):
        rows = [[cell.text for cell in row.cells] for row in shape.table.rows]
        return list(tables.sheet(rows, page))
    if getattr(shape, "has_chart", False):
        return _chart(shape.chart, page)
    return _paragraphs(shape.text_frame, page) if shape.has_text_frame else []


def _paragraphs(frame: Any, page: int) -> list[Block]:
    made = [
        Block("list_item" if paragraph.level else "paragraph", one_line(paragraph.text), page=page)
        for paragraph in frame.paragraphs
    ]
    kept = [block for block in made if block.text]
    # A text box of several short paragraphs is a list of points, indented or not.
    return [replace(b, kind="list_item") for b in kept] if len(kept) > 2 else kept


def _chart(chart: Any, page: int) -> list[Block]:
    series = list(chart.plots[0].series) if len(chart.plots) else []
    if not series:
        return []
    names = [str(category) for category in chart.plots[0].categories]
    caption = one_line(chart.chart_title.text_frame.text) if chart.has_title else ""
    header = [caption, *(str(one.name) for one in series)]
    values = [list(one.values) for one in series]
    rows = [[name, *(_value(column, i) for column in values)] for i, name in enumerate(names)]
    return list(tables.table(header, rows, page))


def _value(column: list[Any], index: int) -> str:
    value = column[index] if index < len(column) else None
    return "" if value is None else f"{value:g}"
