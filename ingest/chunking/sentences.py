"""Where text may be cut: at sentence ends (Vietnamese, English), then words, then characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Span = tuple[int, int]

MOST_CHARS_PER_TOKEN = 10
"""A tokenizer may count a string of any length as one unknown word (WordPiece: above 100 letters).
No language needs more than 5 or 6 letters a token, so 10 keeps such strings apart."""

_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[”’」』）]*|\n")
_WORD_BEFORE = re.compile(r"([^\s(\[\"“'‘«]+)$")
_FIRST = re.compile(r"\s*[\"'“‘«(\[]*(\S?)")
# Words whose full stop does not end a sentence, in lower case without it.
_ABBREVIATIONS = frozenset(
    (
        "tp", "tx", "tt", "ths", "ts", "pgs", "gs", "bs", "ks", "ls", "cn", "ncs", "đ/c", "đc",
        "nxb", "vd", "v.d", "sđt", "đt", "stt", "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr",
        "vs", "e.g", "i.e", "cf", "inc", "ltd", "co", "corp", "approx", "dept", "gen", "col", "lt",
        "sgt", "rev", "hon", "u.s", "u.k",
    )
)  # fmt: skip
# These only before a number: "No. 5", but "she said no."
_BEFORE_NUMBER = frozenset(
    (
        "no", "nos", "art", "arts", "sec", "fig", "figs", "eq", "p", "pp", "vol", "ed", "tr", "q",
        "số",
    )
)  # fmt: skip
_NUMBERED = re.compile(
    r"(?:^|\b(?:điều|khoản|điểm|mục|chương|phần|số|bước|câu|bài|hình|bảng|article|section|chapter|"
    r"part|clause|step|no|figure|table|item)\s+)[\dIVXLC]+[a-zđ]?$",
    re.IGNORECASE,
)


def sentences(text: str) -> Iterator[Span]:
    """Spans of the sentences, without the white space between them, in order."""
    start = 0
    for end in _END.finditer(text):
        if end.group() == "\n" or end.group()[0] in "。！？":
            cut = True
        else:
            cut = _ends_sentence(text, start, end)
        if cut:
            yield from _trimmed(text, start, end.end())
            start = end.end()
    yield from _trimmed(text, start, len(text))


def _ends_sentence(text: str, start: int, end: re.Match[str]) -> bool:
    first = _FIRST.match(text, end.end())
    if first and first.group(1).islower():
        return False
    if end.group()[0] != ".":
        return True
    # A word long enough to be none of these needs no look further back.
    before = text[max(start, end.start() - 24) : end.start()]
    word = _WORD_BEFORE.search(before)
    if word is None or len(end.group()) > 1:
        return True
    bare = word.group(1)
    initial = len(bare) == 1 and bare.isalpha() and bare.isupper()
    short = bare.lower()
    if initial or short in _ABBREVIATIONS:
        return False
    if short in _BEFORE_NUMBER and text[end.end() : end.end() + 2].strip()[:1].isdigit():
        return False
    return not _NUMBERED.search(before.lstrip())


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield start, end


def pieces(text: str, span: Span, cost: Callable[[str], int], limit: int) -> Iterator[Span]:
    """Spans within `span` that cost `limit` at most, cut at words, inside a word if it must be.

    Raises:
        ValueError: not even one character costs so little.
    """
    start, end = span
    # A window bounds what is counted for one piece, so that the time is linear in the text; the
    # piece before tells how wide it need be.
    widest = MOST_CHARS_PER_TOKEN * limit
    window = widest
    while start < end:
        cut = _long_prefix(text, start, min(end, start + window), cost, limit)
        window = min(widest, max(16, (cut - start) * 5 // 4))
        if cut < end:
            space = _last_space(text, start, cut)
            cut = space if space > start else cut
        yield from _trimmed(text, start, cut)
        start = cut
        while start < end and text[start].isspace():
            start += 1


def _long_prefix(text: str, start: int, end: int, cost: Callable[[str], int], limit: int) -> int:
    """End of a prefix that fits and is nearly as long as can be, in two or three counts."""
    while (tokens := cost(text[start:end])) > limit:
        if end - start == 1:
            raise ValueError(f"a limit of {limit} tokens is too small for a single character")
        end = start + max(1, min(end - start - 1, int(0.97 * (end - start) * limit / tokens)))
    return end


def _last_space(text: str, start: int, cut: int) -> int:
    if cut < len(text) and text[cut].isspace():
        return cut
    for position in range(cut, start, -1):
        if text[position - 1].isspace():
            return position
    return start
