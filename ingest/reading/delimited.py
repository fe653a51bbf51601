"""CSV: comma, semicolon, tab or bar, whichever makes the most even table."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ingest.document import Document
from ingest.errors import UnreadableFile
from ingest.reading import tables
from ingest.reading.decoding import read_text

_DELIMITERS = ",;\t|"
_SAMPLE_ROWS = 100
_LONGEST_CELL = 16 * 1024 * 1024
_DECLARED = re.compile(r"sep=(.)\n", re.IGNORECASE)


def read(path: Path, name: str) -> Document:
    """The table's rows under its first row.

    Raises:
        UnreadableFile: it is no text, or no table.
    """
    text = read_text(path, name).lstrip("\n")
    declared = _DECLARED.match(text)  # what Excel writes for itself
    if declared:
        text = text[declared.end() :]
    delimiter = declared.group(1) if declared else _delimiter(text)
    csv.field_size_limit(_LONGEST_CELL)
    try:
        return Document(tuple(tables.sheet(_rows(text, delimiter))))
    except csv.Error as exc:
        raise UnreadableFile(
            f"{name} is not a table in CSV ({exc}); check its quotation marks."
        ) from exc


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)


def _delimiter(text: str) -> str:
    """The delimiter by which most of the first rows have the same number of cells, above one."""
    head = text[:200_000]

    def evenness(delimiter: str) -> tuple[float, int]:
        try:
            widths = [len(row) for row in islice(_rows(head, delimiter), _SAMPLE_ROWS) if row]
        except csv.Error:
            return 0.0, 0
        width, count = Counter(widths).most_common(1)[0] if widths else (1, 0)
        return (count / len(widths), width) if width > 1 else (0.0, 0)

    return max(_DELIMITERS, key=evenness)
