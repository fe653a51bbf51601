"""From a question that stands alone to the passages that it is answered from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rag_backend.answering.rewriting import depends_on_history
from rag_backend.clauses import clause_in, clause_of, has_clauses
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store, StoredChunk
from rag_backend.knowledge.passages import Hit, Passage, merge_neighbours
from rag_backend.knowledge.retriever import is_named
from rag_backend.llm.named_parts import asks_for_the_whole
from rag_backend.text import (
    bare_key,
    content_terms,
    has_vietnamese_letters,
    mentions,
    references,
)
from rag_backend.utterances import parts

CHUNKS = 8
"""Chunks retrieved for an answer; neighbours among them become one passage."""

RELEVANT = 0.5
"""Least relevance (see Hit) of a passage that is put before the model."""


async def find(library: Library, store: Store, question: str) -> list[Passage]:
    """Relevant passages, best first; where the question names a part ("Điều 5"), those of it.

    What a question of several parts asks need not stand in one place: each part that says by
    itself what it is about is looked up too.
    """
    asked = parts(question)
    alone = [part for part in asked if _stands_alone(part)] if len(asked) > 1 else []
    found = await asyncio.gather(
        *(library.search(store, query, CHUNKS) for query in (question, *alone))
    )
    hits = _together(found)[: CHUNKS + len(alone)]
    passages = [p for p in merge_neighbours(hits) if p.relevance >= RELEVANT]
    return of_named_part(question, passages)


def of_named_part(question: str, passages: Sequence[Passage]) -> list[Passage]:
    """Those of the article, chapter or section that the question names, and of its clause.

    Where there is no such part, all of them, which may answer what else is asked; but none where
    the question asks for that part and nothing else: another article would be a wrong answer.
    """
    wanted = references(question)
    if not wanted:
        return list(passages)
    whole = asks_for_the_whole(question)
    named = [p for p in passages if is_named(wanted, p.best)]
    if not named:
        return [p for p in passages if mentions(p.text, wanted)] if whole else list(passages)
    clause = clause_in(question)
    if clause is None or not any(has_clauses(p.text) for p in named):
        return named
    having = [p for p in named if clause_of(p.text, clause)]
    return having if having or whole else named


def typed_bare(question: str, passages: Sequence[Passage]) -> StoredChunk | None:
    """The question/answer row whose question this is, typed without its diacritics.

    None where two rows with other answers are written alike without them.
    """
    if has_vietnamese_letters(question):
        return None
    key = bare_key(question)
    rows = [p.best for p in passages if bare_key(p.best.question or "") == key]
    answers = {row.answer for row in rows if row.answer}
    return rows[0] if len(answers) == 1 else None


def _stands_alone(part: str) -> bool:
    return len(content_terms(part)) > 1 and not depends_on_history(part)


def _together(found: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Each chunk once, as the search saw it that it answers best."""
    best: dict[str, Hit] = {}
    for hit in (hit for hits in found for hit in hits):
        known = best.get(hit.chunk.id)
        if known is None or hit.relevance > known.relevance:
            best[hit.chunk.id] = hit
    if len(found) == 1:
        return list(best.values())
    return sorted(best.values(), key=lambda hit: -hit.score)
