"""Citations: decided here, not by the model.

Markers that the model wrote count where they name a passage that was given (`markers.py` takes the
others out). Sentences without a marker are compared with the passages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ingest.chunking.sentences import Span, sentences
from rag_backend.answering.language import says_unknown
from rag_backend.answering.markers import Marker, find_markers
from rag_backend.answering.statements import Statement, statements
from rag_backend.knowledge.passages import Passage
from rag_backend.text import content_terms

_SUPPORT = 0.6
"""Share of a sentence's content words that a passage must contain to be its source."""
_FEWEST_WORDS = 3
"""A sentence of fewer content words ("Yes.", "You are welcome") has no source."""


@dataclass(frozen=True, slots=True)
class Source:
    """A passage as it was numbered in the prompt."""

    number: int
    passage: Passage


@dataclass(frozen=True, slots=True)
class _Use:
    """Where an answer rests on a source: the statement, and the span that is annotated."""

    number: int
    statement: str
    span: Span


def cite(
    answer: str, sources: Sequence[Source], base_url: str, *, marked: bool = True
) -> list[dict[str, Any]]:
    """The citations of an answer, in order of first use.

    Each is {"index", "file_id", "filename", "page", "heading_path", "quote", "score", "url",
    "start_index", "end_index"}: `index` is the marker's number, `quote` the statement of the
    passage that supports the answer best, the indices a character span of the answer (the marker,
    or the sentence where there is none).

    Args:
        marked: Whether brackets in the answer are markers; in JSON, say, they are not.
    """
    by_number = {source.number: source for source in sources}
    markers = [m for m in find_markers(answer) if by_number.keys() & m.numbers] if marked else []
    spans = list(sentences(_blanked(answer, markers)))
    marks = [(marker, _statement_of(marker, spans, answer)) for marker in markers]
    uses = [
        _Use(number, answer[slice(*span)], (marker.start, marker.end))
        for marker, span in marks
        for number in marker.numbers
        if number in by_number
    ]
    spoken_for = {span for _, span in marks}
    unmarked = [span for span in spans if span not in spoken_for]
    uses += _matched(answer, unmarked, sources, {use.number for use in uses})
    found: dict[int, dict[str, Any]] = {}
    for use in sorted(uses, key=lambda use: use.span):
        if use.number not in found:
            found[use.number] = _citation(by_number[use.number], use.statement, use.span, base_url)
    return list(found.values())


def cite_whole(answer: str, source: Source, base_url: str) -> dict[str, Any]:
    """One citation for an answer that is its source's own text."""
    return _citation(source, answer, (0, len(answer)), base_url)


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


def _blanked(answer: str, markers: Iterable[Marker]) -> str:
    """The answer with blanks for markers, so that positions stay as they are."""
    for marker in markers:
        width = marker.end - marker.start
        answer = f"{answer[: marker.start]}{' ' * width}{answer[marker.end :]}"
    return answer


def _statement_of(marker: Marker, spans: Sequence[Span], answer: str) -> Span:
    """The sentence that a marker ends or stands in; the one that it opens, at a line's start."""
    before = [span for span in spans if span[0] < marker.start]
    after = [span for span in spans if span[0] >= marker.end]
    if before and (not after or "\n" not in answer[before[-1][1] : marker.start]):
        return before[-1]
    return after[0] if after else (marker.start, marker.end)


def _matched(
    answer: str, spans: Sequence[Span], sources: Sequence[Source], cited: Collection[int]
) -> Iterator[_Use]:
    """Sentences without a marker that rest on a source, cited ones aside.

    An answer that begins with "I do not know" rests on none.
    """
    if not spans or says_unknown(answer):
        return
    words_of = {s.number: set(content_terms(s.passage.text)) for s in sources}
    for start, end in spans:
        sentence = answer[start:end]
        terms = content_terms(sentence)
        if len(terms) < _FEWEST_WORDS or says_unknown(sentence):
            continue
        shares = {number: _share(terms, present) for number, present in words_of.items()}
        best = max(shares, key=lambda number: (shares[number], -number), default=None)
        known = any(shares[number] >= _SUPPORT for number in cited)
        if best is not None and shares[best] >= _SUPPORT and not known:
            yield _Use(best, sentence, (start, end))


def _share(terms: Collection[str], present: Collection[str]) -> float:
    return sum(term in present for term in terms) / len(terms) if terms else 0.0


def _citation(source: Source, statement: str, span: Span, base_url: str) -> dict[str, Any]:
    passage, chunk = source.passage, source.passage.best
    quoted = _quote(passage.text, statement)
    # Merged chunks may lie on several pages; what is quoted is mostly in the best of them.
    page = chunk.page if quoted in chunk.text else passage.page
    anchor = f"#page={page}" if page else ""
    return {
        "index": source.number,
        "file_id": chunk.file_id,
        "filename": chunk.filename,
        "page": page,
        "heading_path": list(chunk.heading_path),
        "quote": quoted,
        "score": round(passage.score, 4),
        "url": f"{base_url}/v1/files/{quote(chunk.file_id)}/content{anchor}",
        "start_index": span[0],
        "end_index": span[1],
    }


def _quote(text: str, statement: str) -> str:
    """The statement of the passage that shares most words with the answer's."""
    listed = list(statements(text))
    if not listed:
        return text
    terms = set(content_terms(statement))
    return max(listed, key=lambda candidate: _likeness(terms, candidate)).text


def _likeness(terms: Collection[str], candidate: Statement) -> float:
    """Every row shares the names of its columns with the answer: they tell rows apart from none."""
    if candidate.header is not None:
        terms = set(terms).difference(content_terms(candidate.header)) or terms
    return _share(terms, set(content_terms(candidate.text)))


def _title(citation: Mapping[str, Any]) -> str:
    place = f", p. {citation['page']}" if citation["page"] else ""
    return f"{citation['filename']}{place}"
