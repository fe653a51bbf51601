"""What is left of an earlier process: unfinished jobs, garbage, derived data that were lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from rag_backend.errors import RAGError
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.encoder import Encoder
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import Store, StoreFile
from rag_backend.knowledge.refilling import Refill, begin_repair
from rag_backend.knowledge.sweeping import Sweeper
from rag_backend.knowledge.vectors import VectorIndex

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lost:
    """Whether a store's postings, or its vectors, are not those that the catalog says."""

    postings: bool
    vectors: bool


class Recovery:
    """Looks at what there is when the backend starts. Synchronous."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: Blobs,
        vectors: VectorIndex,
        lexical: LexicalIndex,
        sweeper: Sweeper,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._vectors = vectors
        self._lexical = lexical
        self._sweeper = sweeper

    def clean_up(self) -> Sequence[StoreFile]:
        """Remove what a crash left behind; the jobs that are to be done again."""
        self._sweeper.collect()  # first: what was deleted must not be set aside
        self._blobs.set_aside_unknown({file.id for file in self._catalog.list_files()})
        unfinished = self._catalog.claim_jobs(own=True)
        for store in self._catalog.list_stores():
            mine = [file.file_id for file in unfinished if file.store_id == store.id]
            try:
                self._sweeper.remove(store, mine)
            except RAGError as error:
                log.error("unfinished files of '%s' could not be cleared: %s", store.name, error)
        return unfinished

    def lost(self, store: Store, growing: bool = False) -> Lost:
        """What a failing disk or an inquisitive hand has taken away; says so.

        Args:
            growing: Files may be on their way into the store: more is no loss.

        Between backends, the word index follows the catalog by itself (`followed`), and there may
        be more vectors than chunks: of what others write now.
        """
        wanted = self._catalog.count_chunks(store.id)
        alone = self._catalog.owner is None
        growing = growing or not alone
        return Lost(
            alone and self._count("postings", self._lexical, store, wanted, growing),
            self._count("vectors", self._vectors, store, wanted, growing),
        )

    def _count(
        self,
        what: str,
        index: LexicalIndex | VectorIndex,
        store: Store,
        wanted: int,
        growing: bool,
    ) -> bool:
        try:
            found = index.count(store.collection)
        except RAGError as error:
            log.error("%s", error)
            found = -1
        if found == wanted or (found > wanted and growing):
            return False
        log.warning(
            "vector store '%s' has %d chunks, but %s: they are made anew from the catalog now, and "
            "searches miss some of it until then; `python -m ingest rebuild --store %s` makes all "
            "of its indexes anew",
            *(store.name, wanted, f"{found} {what}" if found >= 0 else f"no usable {what}"),
            store.name,
        )
        return True

    def postings(self, store: Store) -> Refill | None:
        """What restores the postings of a store, in place."""
        return begin_repair(self._catalog, self._vectors, self._lexical, store, None)

    def vectors(self, store: Store, encoder: Encoder) -> Refill | None:
        """What restores its vectors."""
        return begin_repair(self._catalog, self._vectors, self._lexical, store, encoder)
