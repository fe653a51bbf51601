"""Markers that a model wrote: "[2]", "[1, 3]". What stands in backticks is code, no marker."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ingest.chunking.sentences import sentences
from rag_backend.answering.language import says_unknown

_MARKER = r"\[(?=[\d,; \t]{1,40}\])[ \t]*\d{1,3}(?:[ \t]*[,;][ \t]*\d{1,3})*[ \t]*\]"
# A marker takes the blank before it along when it goes; never a line break.
_TOKEN = re.compile(rf"(?P<ticks>`+)|(?P<marker>[ \t]?{_MARKER})|[^`\n \t\[]+|.", re.DOTALL)
# What could still become backticks or a marker, at the end of what has come so far.
_UNDECIDED = re.compile(r"(?:`+|[ \t]?\[[\d,; \t]{0,40}|[ \t])\Z")


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker's numbers, and the span of its brackets."""

    numbers: tuple[int, ...]
    start: int
    end: int


def find_markers(text: str) -> Iterator[Marker]:
    """The markers outside code, in order."""
    code = _Code()
    for token in _TOKEN.finditer(text):
        if code.takes(token) or not token["marker"]:
            continue
        yield Marker(_numbers(token), token.end() - len(token.group().lstrip()), token.end())


class MarkerFilter:
    """Takes markers out of a stream that name no passage, or stand after "I do not know".

    The text is the same whatever pieces it is fed in.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = frozenset(numbers)
        self._held = ""
        self._line = ""  # what was shown of the present line
        self._code = _Code()

    def feed(self, text: str) -> str:
        """What may be shown now; what may become a marker is held back."""
        self._held += text
        return self._take(whole=False)

    def close(self) -> str:
        """What is left at the end."""
        return self._take(whole=True)

    def _take(self, *, whole: bool) -> str:
        shown: list[str] = []
        at = 0
        while at < len(self._held) and (whole or not _UNDECIDED.match(self._held, at)):
            token = _TOKEN.match(self._held, at)
            assert token is not None  # noqa: S101  (its last alternative takes any character)
            shown.append(self._shown(token))
            self._line = "" if token.group() == "\n" else self._line + shown[-1]
            at = token.end()
        self._held = self._held[at:]
        return "".join(shown)

    def _shown(self, token: re.Match[str]) -> str:
        if self._code.takes(token) or not token["marker"]:
            return token.group()
        kept = [n for n in dict.fromkeys(_numbers(token)) if n in self._numbers]
        if not kept or says_unknown(_last_sentence(self._line)):
            return ""
        blank = token.group()[0].strip("[")
        return blank + "".join(f"[{n}]" for n in kept)


class _Code:
    """Whether a text is inside backticks. Those within a line end with it; a fence of three or
    more ends with another."""

    def __init__(self) -> None:
        self._opened = 0  # backticks

    def takes(self, token: re.Match[str]) -> bool:
        """Whether a token is code, or opens or closes it."""
        ticks = len(token["ticks"] or "")
        if not self._opened:
            self._opened = ticks
            return ticks > 0
        fence = self._opened >= 3
        if ticks == self._opened or (fence and ticks > 3) or (token.group() == "\n" and not fence):
            self._opened = 0
        return True


def _numbers(token: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", token.group()))


def _last_sentence(line: str) -> str:
    spans = list(sentences(line))
    return line[slice(*spans[-1])] if spans else ""
