"""Where sentences end, in English and Vietnamese. The one splitter of the house."""

from __future__ import annotations

import re
from collections.abc import Iterator

# An end is . ! ? … (with closing quotes or brackets) before white space and something that can
# begin a sentence, or a line break. What only looks like an end is excluded below.
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+[\"'“‘(\[]*[^\W_])|\n+")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[])(?:"
    r"mr|mrs|ms|dr|prof|st|vs|no|nos|fig|sec|art|approx|e\.g|i\.e|inc|ltd|co|dept|est|"
    r"tp|tt|ts|ths|gs|pgs|bs|ks|cn|nxb|q|p|tx|đ|đc|ô|ông|vd|tr|"
    r"[^\W\d_]"  # an initial
    r")\.$",
    re.IGNORECASE,
)
# "Điều 5." and "1." open what follows; they do not end anything.
_NUMBERING = re.compile(
    r"(?:^|\n)\s*(?:(?:điều|chương|mục|khoản|phần|article|section|chapter|step)\s+)?"
    r"(?:\d+(?:\.\d+)*|[ivxlc]+)\.$",
    re.IGNORECASE,
)


def sentences(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, sentence) for each sentence, white space around it left out.

    Spans index into `text`; together they cover everything that is not white space.
    """
    start = 0
    for end in _ends(text):
        yield from _trimmed(text, start, end)
        start = end
    yield from _trimmed(text, start, len(text))


def _ends(text: str) -> Iterator[int]:
    line_start = 0
    for match in _END.finditer(text):
        if match.group()[0] == "\n":
            line_start = match.end()
            yield match.end()
            continue
        before = text[max(line_start, match.start() - 40) : match.start() + 1]
        if match.group()[0] == "." and (_ABBREVIATION.search(before) or _NUMBERING.search(before)):
            continue
        yield match.end()


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    piece = text[start:end]
    bare = piece.strip()
    if bare:
        begin = start + len(piece) - len(piece.lstrip())
        yield begin, begin + len(bare), bare
