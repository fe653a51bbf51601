"""A text in pieces that fit, cut where it parts itself; and in sentences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

Count = Callable[[str], int]
"""Tokens of a text, with whatever stands around it."""

# Where a text may be parted, the best place first: after these.
_BORDERS = tuple(map(re.compile, (r"\n[^\S\n]*\n\s*", r"\n\s*", r"[.!?…;]\s+|[。！？]\s*", r"\s+")))
_WINDOW = 4
"""Borders are looked for as far from the wanted place as one part in so many of a piece."""

_LAST_WORD = re.compile(r"\w+(?=\.$)")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*(?=\s)|[。！？]+[”’」』）]*")

Span = tuple[int, int]
"""First character and the one past the last."""


def cut(text: str, room: int, count: Count) -> list[str]:
    """The text in consecutive pieces, none of which counts more than `room`.

    All together are the text, to the last character. They are about equally long. A single
    character that counts more than `room` is a piece of its own.
    """
    fixed = count("")
    return _cut(text, max(1, room - fixed), lambda piece: count(piece) - fixed)


def _cut(text: str, room: int, count: Count) -> list[str]:
    tokens = count(text)
    if tokens <= room or len(text) < 2:
        return [text]
    pieces = -(-tokens // room)
    at = _border(text, len(text) * (pieces // 2) // pieces, len(text) // pieces // _WINDOW)
    return _cut(text[:at], room, count) + _cut(text[at:], room, count)


def _border(text: str, wanted: int, reach: int) -> int:
    """Where to part the text, within `reach` of `wanted`: both sides have a character at least."""
    first, last = max(1, wanted - reach), min(len(text) - 1, wanted + reach)
    for border in _BORDERS:
        found = [m.end() for m in border.finditer(text, first - 1, last) if m.end() >= first]
        if found:
            return min(found, key=lambda at: abs(at - wanted))
    at = min(max(wanted, 1), len(text) - 1)
    while at > 1 and unicodedata.combining(text[at]):
        at -= 1
    return at


def sentences(text: str) -> list[Span]:
    """Where the sentences stand, without white space around them; each line ends one."""
    return [
        span
        for line in re.finditer(r"[^\n]+", text)
        for start, end in _in_line(text, *line.span())
        if (span := _trimmed(text, start, end)) is not None
    ]


def _in_line(text: str, start: int, end: int) -> list[Span]:
    found = []
    for mark in _SENTENCE_END.finditer(text, start, end):
        if not _is_shortened(text[max(start, mark.end() - 6) : mark.end()]):
            found.append((start, mark.end()))
            start = mark.end()
    return [*found, (start, end)]


def _is_shortened(tail: str) -> bool:
    """Whether its full stop ends no sentence: "Điều 5. Mức phạt", "TP. Huế", "ThS. An"."""
    last = _LAST_WORD.search(tail)
    if last is None:
        return False
    word = last[0]
    if len(word) < 3:
        return word.isdecimal() or word[0].isupper()
    return len(word) == 3 and sum(map(str.isupper, word)) > 1


def _trimmed(text: str, start: int, end: int) -> Span | None:
    part = text[start:end]
    said = part.strip()
    if not said:
        return None
    start += len(part) - len(part.lstrip())
    return start, start + len(said)
