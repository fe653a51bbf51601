"""Citations: decided here, not by the model.

Markers that the model wrote count where they name a passage that was given, and are taken out
where they do not. Sentences without markers are compared with the passages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ingest.chunking.sentences import sentences
from rag_backend.knowledge.retriever import Passage
from rag_backend.knowledge.text import content_terms

_MARKER = re.compile(r"\s?\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\]")
_OPEN_MARKER = re.compile(r"\s?(?:\[[\d\s,;]{0,24})?$")
_CODE = re.compile(r"`+")
_SUPPORT = 0.6
"""Share of a sentence's content words that a passage must contain to be its source."""
_FEWEST_WORDS = 3
"""A sentence of fewer content words ("Yes.", "You are welcome") has no source."""


@dataclass(frozen=True, slots=True)
class Source:
    """A passage as it was numbered in the prompt."""

    number: int
    passage: Passage


class MarkerFilter:
    """Takes markers out of a stream that name no passage; text in backticks passes untouched."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = frozenset(numbers)
        self._held = ""
        self._in_code = False

    def feed(self, text: str) -> str:
        """What may be shown now; the beginning of a possible marker is held back."""
        self._held += text
        cut = len(self._held)
        open_marker = _OPEN_MARKER.search(self._held)
        if open_marker and not self._in_code:
            cut = open_marker.start()
        ready, self._held = self._held[:cut], self._held[cut:]
        return self._cleaned(ready)

    def close(self) -> str:
        """What is left at the end."""
        ready, self._held = self._held, ""
        return self._cleaned(ready)

    def _cleaned(self, text: str) -> str:
        parts: list[str] = []
        at = 0
        for fence in [*_CODE.finditer(text), None]:
            end = fence.start() if fence else len(text)
            segment = text[at:end]
            parts.append(segment if self._in_code else _MARKER.sub(self._valid, segment))
            if fence:
                parts.append(fence.group())
                self._in_code = not self._in_code
                at = fence.end()
        return "".join(parts)

    def _valid(self, marker: re.Match[str]) -> str:
        kept = [n for n in _numbers(marker) if n in self._numbers]
        if not kept:
            return ""
        lead = " " if marker.group()[0].isspace() else ""
        return lead + "".join(f"[{n}]" for n in kept)


def cite(answer: str, sources: Sequence[Source], base_url: str) -> list[dict[str, Any]]:
    """The citations of an answer, in order of first use.

    Each is {"index", "file_id", "filename", "page", "heading_path", "quote", "score", "url",
    "start_index", "end_index"}: `index` is the marker's number, `quote` the passage's sentence that
    supports the answer best, the indices a character span of the answer (the marker, or the
    sentence where there is none).
    """
    by_number = {source.number: source for source in sources}
    found: dict[int, dict[str, Any]] = {}
    for number, start, end, statement in _uses(answer, sources):
        if number in by_number and number not in found:
            found[number] = _citation(by_number[number], statement, start, end, base_url)
    return list(found.values())


def cite_whole(answer: str, source: Source, base_url: str) -> dict[str, Any]:
    """One citation for an answer that is its source's own text."""
    return _citation(source, answer, 0, len(answer), base_url)


def openai_annotations(citations: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same in OpenAI's form, for `message.annotations`."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": citation["start_index"],
                "end_index": citation["end_index"],
                "title": _title(citation),
                "url": citation["url"],
            },
        }
        for citation in citations
    ]


def _uses(answer: str, sources: Sequence[Source]) -> Iterator[tuple[int, int, int, str]]:
    """(number, start, end, statement) of each marker, or without any of each matched sentence."""
    markers = list(_MARKER.finditer(answer))
    for marker in markers:
        lead = len(marker.group()) - len(marker.group().lstrip())
        statement = _statement_before(answer, marker.start())
        for number in _numbers(marker):
            yield number, marker.start() + lead, marker.end(), statement
    if not markers:
        yield from _matched_sentences(answer, sources)


def _statement_before(answer: str, end: int) -> str:
    """The sentence that ends at a marker, other markers left out."""
    before = _MARKER.sub("", answer[:end])
    spans = list(sentences(before))
    return before[slice(*spans[-1])] if spans else ""


def _matched_sentences(
    answer: str, sources: Sequence[Source]
) -> Iterator[tuple[int, int, int, str]]:
    words_of = {s.number: set(content_terms(s.passage.text)) for s in sources}
    for start, end in sentences(answer):
        sentence = answer[start:end]
        terms = content_terms(sentence)
        if len(terms) < _FEWEST_WORDS or not words_of:
            continue
        share, number = max(
            ((_share(terms, present), -number) for number, present in words_of.items())
        )
        if share >= _SUPPORT:
            yield -number, start, end, sentence


def _share(terms: Sequence[str], present: set[str]) -> float:
    return sum(term in present for term in terms) / len(terms)


def _numbers(marker: re.Match[str]) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", marker.group(1))]


def _citation(
    source: Source, statement: str, start: int, end: int, base_url: str
) -> dict[str, Any]:
    passage, chunk = source.passage, source.passage.best
    page = f"#page={passage.page}" if passage.page else ""
    return {
        "index": source.number,
        "file_id": chunk.file_id,
        "filename": chunk.filename,
        "page": passage.page,
        "heading_path": list(chunk.heading_path),
        "quote": _quote(passage.text, statement),
        "score": round(passage.score, 4),
        "url": f"{base_url}/v1/files/{quote(chunk.file_id)}/content{page}",
        "start_index": start,
        "end_index": end,
    }


def _quote(text: str, statement: str) -> str:
    """The sentence of the passage that shares most with the statement."""
    terms = content_terms(statement)
    listed = [text[start:end] for start, end in sentences(text)]
    if not listed or not terms:
        return listed[0] if listed else text
    return max(listed, key=lambda sentence: _share(terms, set(content_terms(sentence))))


def _title(citation: Mapping[str, Any]) -> str:
    place = f", p. {citation['page']}" if citation["page"] else ""
    return f"{citation['filename']}{place}"
