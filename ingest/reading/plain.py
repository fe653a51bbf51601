"""Plain text: paragraphs, whether wrapped by hand or not, underlined and capital headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ingest.document import Block, Document
from ingest.reading.decoding import read_text
from ingest.reading.lines import Line, blocks

_UNDERLINE = re.compile(r"(=+|-+|~+)$")
_RULE = re.compile(r"[\W_]+$")
_WIDEST_WRAP = 120
"""Characters. Longer lines were not wrapped by hand: each is a paragraph."""


def read(path: Path, name: str) -> Document:
    """The text file's paragraphs.

    Raises:
        UnreadableFile: it is no text.
    """
    return Document(tuple(paragraphs(read_text(path, name))))


def paragraphs(text: str) -> Iterator[Block]:
    """Blocks of plain text."""
    rows = [row.strip() for row in text.split("\n")]
    yield from blocks(list(_lines(rows, _wrap_width(rows))))


def _wrap_width(rows: list[str]) -> int:
    """Width above which a line counts as full; more than any line where nothing is wrapped."""
    widths = sorted(len(row) for row in rows if row)
    if not widths:
        return 0
    widest = widths[int(0.95 * (len(widths) - 1))]
    return int(0.75 * widest) if 40 <= widest <= _WIDEST_WRAP else max(widths) + 1


def _lines(rows: list[str], full_from: int) -> Iterator[Line]:
    gap = True
    for index, row in enumerate(rows):
        if not row or (_RULE.match(row) and row.isascii()):
            gap = True
            continue
        following = rows[index + 1] if index + 1 < len(rows) else ""
        underlined = _UNDERLINE.match(following) and len(following) >= max(3, len(row) // 2)
        level = (1 if following[0] == "=" else 2) if underlined and len(row) <= 100 else 0
        yield Line(row, full=len(row) >= full_from, gap=gap, level=level)
        gap = False
