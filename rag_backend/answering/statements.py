"""What a passage says, one statement at a time: its sentences, and the rows of its tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ingest.chunking.sentences import sentences

_SEPARATOR = " | "
_RULE = re.compile(r"[\s|:-]*")


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence, or a table's row as a whole, with the row that names its columns.

    Attributes:
        start: Position in the passage's text.
        header: None for a sentence, and for a row that stands alone.
    """

    start: int
    text: str
    header: str | None = None


def statements(text: str) -> Iterator[Statement]:
    """In order. A table's header is no statement of its own, however often it is repeated."""
    header: str | None = None
    for start, end in _lines(text):
        line = text[start:end]
        if _SEPARATOR not in line:
            header = None
            yield from (Statement(start + at, line[at:to]) for at, to in sentences(line))
        elif header is None and _SEPARATOR in _line_after(text, end):
            header = line
        elif line != header and not _RULE.fullmatch(line):
            yield Statement(start, line, header)


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the lines that are not blank, without white space around them."""
    return (match.span() for match in re.finditer(r"\S(?:[^\n]*\S)?", text))


def _line_after(text: str, end: int) -> str:
    """The line that follows the one which ends at `end`, white space after it left out."""
    return text[end:].lstrip(" \t\r").removeprefix("\n").partition("\n")[0]
