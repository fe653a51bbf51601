"""PDF, with page numbers.

Lines come from pdfium's text layer, paragraphs and headings from where the lines stand. pdfium is
not thread-safe: call this in a process of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import median

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from ingest.document import Document
from ingest.errors import UnreadableFile
from ingest.reading.cleaning import one_line
from ingest.reading.lines import Line, blocks

_PAGE_NUMBER = re.compile(
    r"\W*(?:trang|page|p\.)?\s*\d{1,4}(?:\s*(?:/|of|trên)\s*\d{1,4})?\W*", re.IGNORECASE
)
_HYPHENS = re.compile("[\x02\ufffe]")  # pdfium's marks for a word broken at the end of a line
_HEADING_RATIO = 1.12
_LONGEST_HEADING = 150
_EDGE_LINES = 2
_FEWEST_REPEATS = 3
_NEIGHBOURS = 12


@dataclass(frozen=True, slots=True)
class _Row:
    """A line on a page.

    Attributes:
        left, right, top, bottom: In points from the page's left and lower edge; 0 where unknown.
        size: Font size in points; 0 where unknown.
    """

    text: str
    page: int
    left: float = 0.0
    right: float = 0.0
    top: float = 0.0
    bottom: float = 0.0
    size: float = 0.0


def read(path: Path, name: str) -> Document:
    """The PDF's blocks with their page numbers.

    Raises:
        UnreadableFile: encrypted, damaged, without pages, or only images.
    """
    with closing(_open(path, name)) as pdf:
        if len(pdf) == 0:
            raise UnreadableFile(f"{name} has no pages; get a whole copy.")
        pages = [_rows(pdf, number) for number in range(1, len(pdf) + 1)]
        title = pdf.get_metadata_value("Title")
    if not any(pages):
        raise UnreadableFile(
            f"{name} contains no text: its {len(pages)} page(s) are images; "
            "run text recognition (OCR) on it first.",
        )
    rows = [row for page in _without_edges(pages) for row in page]
    return Document(tuple(blocks(list(_lines(rows)))), title or None)


def _open(path: Path, name: str) -> pdfium.PdfDocument:
    try:
        return pdfium.PdfDocument(path)
    except pdfium.PdfiumError as exc:
        if pdfium_c.FPDF_GetLastError() == pdfium_c.FPDF_ERR_PASSWORD or "password" in str(exc):
            raise UnreadableFile(
                f"{name} is protected by a password; save a copy without the password."
            ) from exc
        raise UnreadableFile(
            f"{name} is a damaged PDF, or has no pages; get a whole copy."
        ) from exc


def _rows(pdf: pdfium.PdfDocument, number: int) -> list[_Row]:
    """Lines of a page; a page that cannot be loaded has none, and the others are still read."""
    try:
        page = pdf[number - 1]
    except pdfium.PdfiumError:
        return []
    with closing(page), closing(page.get_textpage()) as text_page:
        text = text_page.get_text_range()
        # One unit a character only where no character lies outside the basic plane or is unmapped.
        located = len(text) == text_page.count_chars()
        rows, offset = [], 0
        for raw in text.split("\r\n"):
            shown = one_line(_HYPHENS.sub("-", raw))
            if shown:
                row = _Row(shown, number)
                rows.append(_located(row, text_page, raw, offset) if located else row)
            offset += len(raw) + 2
        return rows


def _located(row: _Row, text_page: pdfium.PdfTextPage, raw: str, offset: int) -> _Row:
    first = offset + len(raw) - len(raw.lstrip())
    last = offset + len(raw.rstrip()) - 1
    box = text_page.get_charbox(first, loose=True)
    right = text_page.get_charbox(last, loose=True)[2]
    size = float(pdfium_c.FPDFText_GetFontSize(text_page, first))
    height = box[3] - box[1]
    # A font size of 1 scaled by the text matrix is common: the box tells the real size.
    return replace(
        row, left=box[0], right=right, top=box[3], bottom=box[1], size=size if size > 4 else height
    )


def _without_edges(pages: list[list[_Row]]) -> Iterator[list[_Row]]:
    """Pages without running heads, feet and page numbers."""
    counts: Counter[str] = Counter()
    for page in pages:
        counts.update({_edge_key(row.text) for row in (*page[:_EDGE_LINES], *page[-_EDGE_LINES:])})
    often = max(_FEWEST_REPEATS, 0.5 * len(pages))
    for page in pages:
        last = len(page) - _EDGE_LINES
        yield [
            row
            for i, row in enumerate(page)
            if (_EDGE_LINES <= i < last)
            or not (
                counts[_edge_key(row.text)] >= (_FEWEST_REPEATS if _numbered(row) else often)
                or (i in (0, len(page) - 1) and len(page) > 1 and _PAGE_NUMBER.fullmatch(row.text))
            )
        ]


def _numbered(row: _Row) -> bool:
    """Whether it begins or ends with a number, as a chapter's running head does."""
    return row.text[0].isdigit() or row.text[-1].isdigit()


def _edge_key(text: str) -> str:
    return re.sub(r"\d+", "#", text.casefold())


def _lines(rows: list[_Row]) -> Iterator[Line]:
    """Rows with what their place says: full width, gap above, heading size."""
    body = _body_size(rows)
    levels = _heading_levels(rows, body)
    leading = _leading(rows)
    longest = max((len(row.text) for row in rows), default=0)
    for i, row in enumerate(rows):
        following = rows[i + 1] if i + 1 < len(rows) else None
        if row.right:
            full = _is_full(row, following, _margin(rows, i))
        else:
            full = len(row.text) >= 0.75 * longest
        level = levels.get(round(row.size), 0) if len(row.text) <= _LONGEST_HEADING else 0
        gap = i == 0 or _space(rows[i - 1], row) > leading + 0.35 * (row.top - row.bottom)
        yield Line(row.text, full=full, gap=gap, page=row.page, level=level)


def _is_full(row: _Row, following: _Row | None, margin: float) -> bool:
    """Whether the next line's first word would not have fitted: then the break was forced."""
    word = following.text.split(" ", 1)[0] if following else ""
    return row.right + (0.5 * len(word) + 0.5) * row.size >= margin - 0.5 * row.size


def _margin(rows: list[_Row], index: int) -> float:
    """Right edge of the column that the row stands in, by its neighbours in reading order."""
    row = rows[index]
    near = rows[max(0, index - _NEIGHBOURS) : index + _NEIGHBOURS + 1]
    return max(
        other.right
        for other in near
        if other.page == row.page
        and other.left < row.right
        and other.right > row.left
        and round(other.size) == round(row.size)
    )


def _body_size(rows: list[_Row]) -> int:
    sizes: Counter[int] = Counter()
    for row in rows:
        sizes[round(row.size)] += len(row.text)
    return sizes.most_common(1)[0][0] if sizes else 0


def _heading_levels(rows: list[_Row], body: int) -> dict[int, int]:
    """Font size to heading level: the larger the higher, three levels at most."""
    if not body:
        return {}
    larger = {round(row.size) for row in rows if row.size >= body * _HEADING_RATIO}
    return {size: min(i, 3) for i, size in enumerate(sorted(larger, reverse=True), 1)}


def _leading(rows: list[_Row]) -> float:
    """The usual space between lines, in points."""
    # More than a line's height is a gap even where all lines are so far apart.
    usual = [
        space
        for above, row in pairwise(rows)
        if -inf < (space := _space(above, row)) < 1.2 * (row.top - row.bottom)
    ]
    return median(usual) if usual else 0.0


def _space(above: _Row, row: _Row) -> float:
    """Points between two lines; minus infinity where they are not below each other."""
    height = row.top - row.bottom
    space = above.bottom - row.top
    beside = above.page != row.page or not height or space < -height
    return -inf if beside else space
