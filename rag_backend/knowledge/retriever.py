"""The read path: a query to ranked chunks, and chunks to passages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rag_backend.errors import StorageLost
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.embedding import EMBEDDED
from rag_backend.knowledge.encoder import Encoder
from rag_backend.knowledge.encoders import Encoders
from rag_backend.knowledge.filters import Selection, matches
from rag_backend.knowledge.fusion import CANDIDATES, DENSE_WEIGHT, FOREIGN_WEIGHT, fuse
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import Fusion, Store, StoredChunk
from rag_backend.knowledge.passages import Hit, Passage, neighbour_ids, with_neighbours
from rag_backend.knowledge.querying import Queries
from rag_backend.knowledge.reranking import RERANKED, Reranking
from rag_backend.knowledge.selecting import Selector
from rag_backend.knowledge.vectors import VectorIndex
from rag_backend.text import (
    bears,
    has_vietnamese_letters,
    is_vietnamese,
    kind_of,
    nfc,
    present_terms,
    query_terms,
    references,
    words,
)

log = logging.getLogger(__name__)

_ATTEMPTS, _MOST_ATTEMPTS = 3, 10
"""How often a search is made while the store changes under it: one that found all that it may
return, and one that may have missed something."""
# Where MiniLM reads both texts, unrelated pairs stay below .2 and paraphrases lie above .7.
_UNRELATED_COSINE, _SAME_COSINE = 0.2, 0.7

_LOST = (
    "This vector store's vectors and postings are damaged, and made anew from the catalog now: try "
    "again in a moment."
)
_SPARE = 10
"""Chunks fetched beyond those asked for: some may have been deleted a moment ago."""


class _Asked(NamedTuple):
    """One search: of what, for what, and the files that `filters` allow (None: all)."""

    store: Store
    learnt: Fusion
    query: str
    filters: Mapping[str, Any] | None
    allowed: Selection | None


class Retriever:
    """Dense and lexical search over one store, fused, and checked against the catalog."""

    def __init__(
        self,
        catalog: Catalog,
        vectors: VectorIndex,
        lexical: LexicalIndex,
        encoders: Encoders,
        reranking: Reranking,
    ) -> None:
        self._catalog = catalog
        self._vectors = vectors
        self._lexical = lexical
        self._encoders = encoders
        self._selector = Selector(catalog)
        self._reranking = reranking
        self.queries = Queries()

    def check_vectors(self) -> None:
        """Raise StorageBroken when Chroma does not answer. Synchronous."""
        self._vectors.heartbeat()

    def check_words(self, store: Store) -> None:
        """Raise StorageBroken when a store's word index cannot be opened. Synchronous."""
        self._lexical.count(store.collection)

    def close(self) -> None:
        """Let go of Chroma's files or connections, and of threads. Synchronous."""
        self.queries.close()
        self._vectors.close()

    async def search(
        self,
        store: Store,
        query: str,
        k: int,
        filters: Mapping[str, Any] | None = None,
        *,
        rerank: bool = True,
    ) -> list[Hit]:
        """The k best chunks, best first.

        Args:
            filters: An attribute filter of OpenAI's form, already checked.
            rerank: Whether the reranker, where there is one, has the last word.

        Raises:
            NotFound: The store was deleted.
            Conflict: It was embedded with another model.
            Starting: The encoder is still loading.
        """
        query = nfc(query)
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            asked = await asyncio.to_thread(self._asked, store.id, query, filters)
            hits = await self._search(asked, k, rerank)
            now = await asyncio.to_thread(self._catalog.store, store.id)
            enough = len(hits) >= k and attempt >= _ATTEMPTS
            if enough or now.revision == asked.store.revision:
                break
            # What was found may have been replaced before it could be looked up, or its index
            # swapped: a file that is there at any time must not be missed.
        return hits

    async def _search(self, asked: _Asked, k: int, rerank: bool) -> list[Hit]:
        query = asked.query
        encoder = await self._encoders.for_search(asked.store)
        if asked.allowed is not None and not asked.allowed:
            return []
        dense, (lexical, weights) = await asyncio.gather(
            self._dense(encoder, asked), asyncio.to_thread(self._words, asked)
        )
        if dense is None and lexical is None:
            raise StorageLost(_LOST)
        dense, lexical = dense or [], lexical or []
        ranked = fuse(dense, lexical, _dense_weight(asked.learnt, encoder, kind_of(query)))
        rerank = rerank and self._reranking.ready
        # A part that the query names can come from anywhere in the ranking (`_named_first`).
        needed = len(ranked) if references(query) else max(k, RERANKED if rerank else 0)
        visible = await asyncio.to_thread(self._visible, asked, ranked, needed)
        scored = _named_first(query, visible)
        judged = await self._judged(query, [chunk for chunk, _ in scored]) if rerank else {}
        if judged:
            best = [(chunk, judged[chunk.id]) for chunk, _ in scored if chunk.id in judged]
            lowest = min(judged.values())
            rest = [(chunk, lowest * score) for chunk, score in visible if chunk.id not in judged]
            best += [(chunk, min(lowest, score)) for chunk, score in rest]
            scored = _named_first(query, sorted(best, key=lambda pair: -pair[1]))
        trusted = _trusted_cosines(encoder, query, dense)
        return _hits(query, scored[:k], weights, trusted, judged)

    async def passages(self, store: Store, hits: Sequence[Hit], k: int) -> list[Passage]:
        """The first k hits with what stands beside them (see `passages.with_neighbours`)."""
        beside = neighbour_ids(hits)
        found = await asyncio.to_thread(self._catalog.visible_chunks, store.id, beside)
        return with_neighbours(hits, found, k)

    async def _judged(self, query: str, chunks: Sequence[StoredChunk]) -> dict[str, float]:
        """{chunk id: the reranker's score in 0..1} of the best; {} where there is no reranker."""
        best = chunks[:RERANKED]
        scores = await self._reranking.scores(query, [chunk.indexed_text for chunk in best])
        return {} if scores is None else dict(zip((c.id for c in best), scores, strict=True))

    async def term_weights(self, store: Store, query: str) -> dict[str, float]:
        """Inverse document frequency of the query's terms (see `text.query_terms`)."""
        store = await asyncio.to_thread(self._catalog.store, store.id)
        return await asyncio.to_thread(self._weights, store, query)

    def _weights(self, store: Store, query: str) -> dict[str, float]:
        return self._lexical.term_weights(store.collection, query)

    async def _dense(
        self, encoder: Encoder | None, asked: _Asked
    ) -> list[tuple[str, float]] | None:
        """The dense ranking; None where the vectors are lost, until they are made anew."""
        if encoder is None:  # the store is being re-embedded, and what it had cannot be loaded
            return []
        vector = await self.queries.vector(encoder, asked.query)
        if vector is None:  # not in time: the words answer
            return []
        collection = asked.store.collection
        try:
            return await asyncio.to_thread(
                self._vectors.search, collection, vector, CANDIDATES, asked.allowed
            )
        except StorageLost as error:
            log.warning("a search goes by words alone: %s", error)
            return None

    def _words(self, asked: _Asked) -> tuple[list[tuple[str, float]] | None, dict[str, float]]:
        """BM25's ranking, and the terms' weights; None and equal ones where postings are lost."""
        collection = asked.store.collection
        try:
            found = self._lexical.search(collection, asked.query, CANDIDATES, asked.allowed)
            return found, self._weights(asked.store, asked.query)
        except StorageLost as error:
            log.warning("a search goes by vectors alone: %s", error)
            return None, dict.fromkeys(query_terms(asked.query), 1.0)

    def _asked(self, store_id: str, query: str, filters: Mapping[str, Any] | None) -> _Asked:
        """The store as it is now (it may be rebuilt by now), and the files that filters allow."""
        store = self._catalog.store(store_id)
        allowed = None if filters is None else self._selector.select(store, filters)
        return _Asked(store, self._catalog.fusion(store), query, filters, allowed)

    def _visible(
        self, asked: _Asked, ranked: Sequence[tuple[str, float]], k: int
    ) -> list[tuple[StoredChunk, float]]:
        """The first k, or somewhat more, that the catalog still shows and the filters still allow.

        What was deleted, or got other attributes, since the search began is not among them.
        """
        filters = asked.filters
        scored: list[tuple[StoredChunk, float]] = []
        for at in range(0, len(ranked), step := k + _SPARE):
            part = ranked[at : at + step]
            found = self._catalog.visible_chunks(asked.store.id, [item for item, _ in part])
            for item, score in part:
                chunk = found.get(item)
                if chunk is not None and (filters is None or matches(filters, chunk.attributes)):
                    scored.append((chunk, score))
            if len(scored) >= k:
                break
        return scored


def _dense_weight(learnt: Fusion, encoder: Encoder | None, kind: str) -> float:
    """What the store has learnt for this kind of query, or a guess.

    The embedded encoder reads English only: what it makes of a question in another language is
    next to chance, whatever the language of the texts.
    """
    foreign = kind != "en" and encoder is not None and encoder.embedding.model_id == EMBEDDED
    guess = FOREIGN_WEIGHT if foreign else DENSE_WEIGHT
    return learnt.dense_weight.get(kind, guess)


def _named_first(
    query: str, scored: Sequence[tuple[StoredChunk, float]]
) -> list[tuple[StoredChunk, float]]:
    """Parts that the query names by number ("Điều 5") before all others, however common the words.

    Scores lie in 0..1, both ends included, so two more outrank them.
    """
    wanted = references(query)
    if not wanted:
        return list(scored)
    raised = [(chunk, score + 2 * is_named(wanted, chunk)) for chunk, score in scored]
    return sorted(raised, key=lambda pair: -pair[1])


def is_named(wanted: frozenset[str], chunk: StoredChunk) -> bool:
    """Whether the chunk stands under the headings of the parts that `references` names."""
    return bears(chunk.heading_path, wanted)


def _trusted_cosines(
    encoder: Encoder | None, query: str, dense: Iterable[tuple[str, float]]
) -> dict[str, float]:
    """Cosines that say something about relevance: the embedded encoder reads English only, and
    finds any two Vietnamese texts alike."""
    if encoder and encoder.embedding.model_id == EMBEDDED and is_vietnamese(query):
        return {}
    return dict(dense)


def _hits(
    query: str,
    scored: Sequence[tuple[StoredChunk, float]],
    weights: Mapping[str, float],
    cosines: Mapping[str, float],
    judged: Mapping[str, float],
) -> list[Hit]:
    """Hits in the order given. A reranker's scores are shown as they are, since they lie in 0..1
    by themselves; fused ones are shares of the best one's, which is shown as its relevance."""
    wanted = references(query)
    relevances = [
        max(
            _shared(query, weights, chunk.indexed_text),
            _from_cosine(cosines.get(chunk.id, 0.0)),
            float(is_named(wanted, chunk)),
            judged.get(chunk.id, 0.0),
        )
        for chunk, _ in scored
    ]
    top = max((score for _, score in scored), default=0.0) or 1.0
    ceiling = max(relevances, default=0.0)
    if judged:
        top = ceiling = 1.0
    return [
        Hit(chunk, min(1.0, score / top * ceiling), relevance)
        for (chunk, score), relevance in zip(scored, relevances, strict=True)
    ]


def coverage(weights: Mapping[str, float], text: str) -> float:
    """Share in 0..1 of the query's content, weighed by idf, whose words occur in the text."""
    total = sum(weights.values())
    if total <= 0:
        return 0.0
    present = present_terms(text)
    return sum(weight for term, weight in weights.items() if term in present) / total


def _shared(query: str, weights: Mapping[str, float], text: str) -> float:
    """`coverage` for judging relevance, where chance must not count.

    Between texts with diacritics "đô" is not "độ", and of a word of two syllables ("thủ đô") one
    alone is another word ("đô la"): neighbours in the query count as a term of their own. One term
    in common with a query of several is chance as often as not.
    """
    weighed: dict[tuple[str, ...], float] = {(term,): w for term, w in weights.items()}
    present: set[tuple[str, ...]] = {(term,) for term in present_terms(text)}
    if has_vietnamese_letters(query) and has_vietnamese_letters(text):
        typed = {word: term for term, word in query_terms(query).items()}
        weighed = {(word,): weights.get(term, 0.0) for word, term in typed.items()}
        pairs = [pair for pair in pairwise(words(query)) if typed.keys() >= set(pair)]
        weighed |= {(a, b): (weighed[a,] + weighed[b,]) / 2 for a, b in pairs}
        written = words(text)
        present = {(word,) for word in written}.union(pairwise(written))
    # Amounts and dates are what a question leaves open or guesses at ("20 minutes late").
    weighed = {t: w for t, w in weighed.items() if not any(word.isdigit() for word in t)} or weighed
    matched = [weight for term, weight in weighed.items() if term in present]
    share = sum(matched) / (sum(weighed.values()) or 1.0)
    return share / 2 if len(matched) == 1 < len(weighed) else share


def _from_cosine(cosine: float) -> float:
    return min(1.0, max(0.0, (cosine - _UNRELATED_COSINE) / (_SAME_COSINE - _UNRELATED_COSINE)))
