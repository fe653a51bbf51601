"""Stores learn, in the background, how far to trust their encoder (see `calibration`)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import nsmallest
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rag_backend.errors import NotFound, RAGError
from rag_backend.knowledge.calibration import FEWEST_ITEMS, Trial, dense_weight, known_items
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.embedding import Kind, Vectors
from rag_backend.knowledge.encoder import Encoder, EncoderLoader
from rag_backend.knowledge.finishing import finished
from rag_backend.knowledge.fusion import CANDIDATES
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import Fusion, Store, StoredChunk, chunk_id

SMALLEST_STORE = 32
"""Chunks below which a store keeps to the prior: anything finds anything there."""
_GROWTH = 2
"""A store learns again when it has grown, or shrunk, so many times; and about a new language."""
_SAMPLE = 1024
"""Chunks looked at, so that a language of a tenth of the store is seen."""
_AT_ONCE = 8
"""Queries embedded in one go: a user's query waits no longer than that."""

log = logging.getLogger(__name__)


class Calibrator:
    """Learns the dense weights of stores, one store at a time, and keeps them in the catalog."""

    def __init__(self, catalog: Catalog, encoder: EncoderLoader) -> None:
        self._catalog = catalog
        self._encoder = encoder
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._listed: set[str] = set()

    def consider(self, store_id: str) -> None:
        """A store has changed: let it learn, soon, if it has changed much. Returns at once."""
        if store_id not in self._listed:
            self._listed.add(store_id)
            self._waiting.put_nowait(store_id)

    @property
    def idle(self) -> bool:
        """Whether every store that was named has been considered."""
        return not self._listed

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            store_id = await self._waiting.get()
            try:
                await self._consider(store_id)
            except RAGError as error:
                log.warning("a store could not learn its dense weight: %s", error)
            except Exception:
                log.exception("learning the dense weight of %s failed", store_id)
            self._listed.discard(store_id)

    async def _consider(self, store_id: str) -> None:
        """Learn, and again while the store outgrows what it has learnt."""
        encoder = await self._encoder.wait()
        while True:
            try:
                store = await finished(self._catalog.store, store_id)
            except NotFound:
                return
            known = await finished(self._catalog.fusion, store)
            size = await finished(self._catalog.count_chunks, store_id)
            if store.rebuilding or size < SMALLEST_STORE:
                return
            outgrown = not known.learnt_from / _GROWTH < size < known.learnt_from * _GROWTH
            if not outgrown and not await finished(self._has_other_kinds, store, known):
                return
            encoder.check(store)
            if not await finished(self._catalog.claim_learning, store_id):
                return  # another backend learns, and the catalog will have it for all
            try:
                weights = await self.learn(store, encoder)
                learnt = Fusion(store.collection, size, weights)
                await finished(self._catalog.set_fusion, store_id, learnt)
            finally:
                await finished(self._catalog.end_learning, store_id)
            log.info("vector store '%s' learnt its dense weights: %s", store.name, weights)

    async def learn(self, store: Store, encoder: Encoder) -> Mapping[str, float]:
        """{kind of query: dense weight}, from some hundreds of known items."""
        chunks = await finished(self._sample, store)
        items = await finished(known_items, chunks)
        asked = [(n, *query) for n, item in enumerate(items) for query in item.queries.items()]
        rests = await _embedded(encoder, [item.rest for item in items], "document")
        vectors = await _embedded(encoder, [query for _, _, query in asked], "query")

        def weigh() -> dict[str, float]:
            trials = _trials([item.rest for item in items], rests, asked, vectors)
            return {
                kind: dense_weight(found)
                for kind, found in sorted(trials.items())
                if len(found) >= FEWEST_ITEMS
            }

        return await finished(weigh)

    def _has_other_kinds(self, store: Store, known: Fusion) -> bool:
        """Whether there is enough text by now of a kind that nothing has been learnt about."""
        found = Counter(item.kind for item in known_items(self._sample(store)))
        return any(
            count >= FEWEST_ITEMS and kind not in known.dense_weight
            for kind, count in found.items()
        )

    def _sample(self, store: Store) -> list[StoredChunk]:
        """Chunks chosen by what the files contain: the same files give the same sample."""

        def order(place: tuple[str, str, int]) -> bytes:
            sha256, _, ordinal = place
            return hashlib.blake2b(f"{sha256}:{ordinal}".encode(), digest_size=16).digest()

        chosen = nsmallest(_SAMPLE, self._catalog.chunk_places(store.id), key=order)
        ids = [chunk_id(file_id, ordinal) for _, file_id, ordinal in chosen]
        found = self._catalog.visible_chunks(store.id, ids)
        return [found[item] for item in ids if item in found]


async def _embedded(encoder: Encoder, texts: Sequence[str], kind: Kind) -> Vectors:
    parts = [
        await finished(encoder.embedding.embed, texts[at : at + _AT_ONCE], kind)
        for at in range(0, len(texts), _AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)


def _trials(
    rests: Sequence[str],
    rest_vectors: Vectors,
    asked: Sequence[tuple[int, str, str]],
    query_vectors: Vectors,
) -> dict[str, list[Trial]]:
    """Every query asked of a little collection of what was left of the chunks, by kind.

    Args:
        rests, rest_vectors: The collection.
        asked, query_vectors: (position of the text to be found, kind, query).
    """
    found: dict[str, list[Trial]] = {}
    with TemporaryDirectory(prefix="calibration-") as folder:
        index = LexicalIndex(Path(folder))
        index.replace("rests", [], [(str(n), str(n), rest) for n, rest in enumerate(rests)])
        for (target, kind, query), vector in zip(asked, query_vectors, strict=True):
            cosines = rest_vectors @ vector
            nearest = np.argsort(-cosines, kind="stable")[:CANDIDATES]
            dense = [(str(n), float(cosines[n])) for n in nearest]
            lexical = index.search("rests", query, CANDIDATES)
            found.setdefault(kind, []).append(Trial(str(target), dense, lexical))
    return found
