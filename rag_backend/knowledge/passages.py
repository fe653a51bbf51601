"""Chunks as a reader gets them: with their neighbours, as one text.

Small chunks are found more exactly, larger ones hold more of the answer: a chunk is what is
searched, and what is returned is the chunk with what stands before and after it in its section.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rag_backend.knowledge.models import StoredChunk, chunk_id

REACH = 1
"""Chunks added on each side of a hit."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk found.

    Attributes:
        score: In 0..1, falls with rank; the best hit's score is its relevance.
        relevance: In 0..1: how much of the query's meaning the chunk covers, by words or by vector,
            whatever the other chunks are like.
    """

    chunk: StoredChunk
    score: float
    relevance: float


@dataclass(frozen=True, slots=True)
class Passage:
    """Neighbouring chunks of one file, read as one text. `best` is the highest-ranked of them.

    Attributes:
        start, end: Character span in the document's text (see `ingest.document.Chunk`).
        page: The page on which it starts.
    """

    best: StoredChunk
    text: str
    start: int
    end: int
    page: int | None
    score: float
    relevance: float


Place = tuple[str, int]
"""(file id, ordinal)."""


def merge_neighbours(hits: Sequence[Hit]) -> list[Passage]:
    """Passages in the order of their best hit; hits that follow each other become one."""
    by_place = {_place(hit.chunk): hit for hit in hits}
    chunks = {place: hit.chunk for place, hit in by_place.items()}
    passages: list[Passage] = []
    used: set[Place] = set()
    for hit in hits:
        if _place(hit.chunk) in used:
            continue
        run = _run_around(hit.chunk, chunks, used, len(hits))
        used.update(map(_place, run))
        passages.append(_passage(run, [by_place[_place(chunk)] for chunk in run], hit))
    return passages


def neighbour_ids(hits: Iterable[Hit]) -> set[str]:
    """The ids of the chunks that may stand beside the hits; some may not exist."""
    return {
        chunk_id(hit.chunk.file_id, hit.chunk.ordinal + step)
        for hit in hits
        for step in range(-REACH, REACH + 1)
        if step and hit.chunk.ordinal + step >= 0
    }


def with_neighbours(
    hits: Sequence[Hit], neighbours: Mapping[str, StoredChunk], k: int
) -> list[Passage]:
    """The first k passages, in the order of their best hit: each with REACH chunks on each side.

    No chunk is in two passages: a hit that lies in an earlier passage makes none of its own.

    Args:
        neighbours: What exists of `neighbour_ids(hits)`, by id.
    """
    by_place = {_place(hit.chunk): hit for hit in hits}
    chunks = {_place(chunk): chunk for chunk in neighbours.values()}
    chunks |= {place: hit.chunk for place, hit in by_place.items()}
    passages: list[Passage] = []
    used: set[Place] = set()
    for hit in hits:
        if len(passages) == k:
            break
        if _place(hit.chunk) in used:
            continue
        run = _run_around(hit.chunk, chunks, used, REACH)
        used.update(map(_place, run))
        inside = [by_place[place] for place in map(_place, run) if place in by_place]
        passages.append(_passage(run, inside, hit))
    return passages


def _run_around(
    chunk: StoredChunk, chunks: Mapping[Place, StoredChunk], used: Collection[Place], reach: int
) -> list[StoredChunk]:
    """The chunk, and up to `reach` others on each side that may be read with it."""
    run = [chunk]
    for step, at in ((-1, 0), (1, -1)):
        for _ in range(reach):
            place = (chunk.file_id, run[at].ordinal + step)
            other = chunks.get(place)
            if other is None or place in used or not _joins(other, chunk):
                break
            run.insert(0 if step < 0 else len(run), other)
    return run


def _joins(one: StoredChunk, other: StoredChunk) -> bool:
    """Neighbours are read together under the same headings; rows with an answer stand alone."""
    return one.heading_path == other.heading_path and one.answer is None and other.answer is None


def _passage(run: Sequence[StoredChunk], inside: Iterable[Hit], best: Hit) -> Passage:
    return Passage(
        best=best.chunk,
        text=_joined(run),
        start=run[0].start,
        end=run[-1].end,
        page=run[0].page,
        score=best.score,
        relevance=max(hit.relevance for hit in inside),
    )


def _joined(run: Sequence[StoredChunk]) -> str:
    """One text; a table's header, which each of its chunks repeats, and what windows overlap by
    stand there once."""
    joined, header, shown = "", "", run[0].start
    for chunk in run:
        # A table's chunk: its span covers the rows only.
        own = chunk.end - chunk.start
        above = chunk.text[: max(0, len(chunk.text) - own)]
        text = chunk.text[len(above) :] if above and above == header else chunk.text
        overlap = 0 if above else max(0, shown - chunk.start)
        apart = bool(joined) and (bool(above) or chunk.start > shown)
        joined += ("\n" if apart else "") + text[overlap:]
        header, shown = above, chunk.end
    return joined


def _place(chunk: StoredChunk) -> Place:
    return chunk.file_id, chunk.ordinal
