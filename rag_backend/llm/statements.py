"""What a passage says, piece by piece: sentences, short lists, table rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ingest.chunking.sentences import sentences

LONGEST_LIST = 600
"""Characters up to which a list and the line that announces it stay together."""

_BULLET = re.compile(r"^\s*(?:[-*+•–—▪◦]|\d{1,2}[.)]|[a-zđ]\))\s+")
_HEADING_MARK = re.compile(r"^#{1,6}\s+")
_RULE = frozenset("-:| ")


class Statement(NamedTuple):
    """A sentence, verbatim; or a table row as "header: cell" pairs, and its cells alone."""

    text: str
    cells: str | None = None


def statements(text: str) -> Iterator[Statement]:
    """The statements of a passage, in order."""
    table: list[list[str]] = []
    for line in [*_with_lists(text.splitlines()), ""]:
        cells = _cells(line)
        if len(cells) > 1:
            table.append(cells)
            continue
        yield from _rows(table)
        table = []
        bare = _BULLET.sub("", _HEADING_MARK.sub("", line.strip()))
        yield from (Statement(bare[start:end]) for start, end in sentences(bare))


def _with_lists(lines: Sequence[str]) -> Iterator[str]:
    """Lines, a short list on one line with its announcement: "Bring: a passport; two photos"."""
    at = 0
    while at < len(lines):
        end = at + 1
        while lines[at].rstrip().endswith(":") and end < len(lines) and _BULLET.match(lines[end]):
            end += 1
        items = [_BULLET.sub("", line).strip().rstrip(".;,") for line in lines[at + 1 : end]]
        joined = f"{lines[at].rstrip()} {'; '.join(items)}"
        if items and len(joined) <= LONGEST_LIST:
            yield joined
            at = end
        else:
            yield lines[at]
            at += 1


def _cells(line: str) -> list[str]:
    bare = line.strip()
    if bare.startswith("|"):  # Markdown's own frame; elsewhere a last bar is an empty cell
        bare = bare.strip("|")
    return [cell.strip() for cell in f" {bare} ".split(" | ")]


def _rows(table: Sequence[Sequence[str]]) -> Iterator[Statement]:
    """A table's rows under its first line, which chunks of one table repeat."""
    if len(table) == 1:  # a row whose header was left behind
        yield Statement("; ".join(filter(None, table[0])))
    for cells in table[1:]:
        if cells != table[0] and not set("".join(cells)) <= _RULE:
            yield _row(table[0], cells)


def _row(header: Sequence[str], cells: Sequence[str]) -> Statement:
    names = [*header, *[""] * len(cells)]
    told = [
        f"{name}: {cell}" if name else cell
        for name, cell in zip(names, cells, strict=False)
        if cell
    ]
    return Statement("; ".join(told), " ".join(cells))
