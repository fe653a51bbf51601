"""Excel workbooks: a sheet is a page and its name a heading; rows stand under their header."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openpyxl  # type: ignore[import-untyped]
from openpyxl.worksheet._read_only import ReadOnlyWorksheet  # type: ignore[import-untyped]

from ingest.document import Block, Document
from ingest.reading import archive, tables
from ingest.reading.cleaning import one_line


def read(path: Path, name: str) -> Document:
    """Rows of all sheets in order; a formula counts as the value that was saved with it.

    Raises:
        UnreadableFile: it is damaged, protected or a bomb.
    """
    archive.check(path, name)
    with path.open("rb") as file, closing(_workbook(file)) as workbook:
        blocks: list[Block] = []
        for number, sheet in enumerate(workbook.worksheets, 1):
            rows = list(tables.sheet(_rows(sheet), number))
            if rows:
                heading = one_line(sheet.title) or f"Sheet {number}"
                blocks += [Block("heading", heading, level=1, page=number), *rows]
        return Document(tuple(blocks), workbook.properties.title or None)


def _workbook(file: Any) -> Any:
    return openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)


def _rows(sheet: Any) -> Iterator[list[str]]:
    if isinstance(sheet, ReadOnlyWorksheet):
        # Some writers declare a range of one cell, or of a million rows.
        sheet.reset_dimensions()
    for row in sheet.iter_rows():
        cells = [_shown(cell) for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        yield cells


def _shown(cell: Any) -> str:
    """The value as a reader of the sheet would write it."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        percent = "%" in (cell.number_format or "")
        return f"{value * 100:.10g}%" if percent else f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight else value.isoformat(" ", "minutes")
    if isinstance(value, datetime.time):
        return value.isoformat("minutes")
    return str(value)
