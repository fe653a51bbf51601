"""What the catalog has retired leaves Chroma, tantivy and the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec

from rag_backend.errors import RAGError
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import Garbage, Store
from rag_backend.knowledge.vectors import VectorIndex

P = ParamSpec("P")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    """(store id, file id) of files whose vectors and postings were removed, or are still there."""

    removed: set[tuple[str, str]]
    left: set[tuple[str, str]]


class Sweeper:
    """Removes garbage. Synchronous; for the thread of the indexer's writer only."""

    def __init__(
        self, catalog: Catalog, blobs: Blobs, vectors: VectorIndex, lexical: LexicalIndex
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._vectors = vectors
        self._lexical = lexical

    def collect(self) -> Swept:
        """Remove what can be removed; the rest stays written down, for the next time."""
        gone: list[Garbage] = []
        removed: list[int] = []

        def remove(found: list[Garbage]) -> list[int]:
            gone.extend(found)
            done = self._remove(found)
            removed.extend(done)
            return done

        try:
            self._catalog.collect_garbage(remove)
        except RAGError as error:
            log.error("what was deleted is still on disk: %s", error)
        done = set(removed)
        postings = [item for item in gone if item.kind == "postings"]
        return Swept(
            {(str(item.store_id), str(item.file_id)) for item in postings if item.id in done},
            {(str(item.store_id), str(item.file_id)) for item in postings if item.id not in done},
        )

    def drop(self, collection: str) -> None:
        """Delete a store generation's derived data."""
        self._vectors.drop(collection)
        self._lexical.drop(collection)

    def remove(self, store: Store, file_ids: Sequence[str]) -> None:
        """Remove what there is of files; raises RAGError."""
        if file_ids:
            self._remove_postings(store.collections, file_ids)

    def _remove(self, gone: Sequence[Garbage]) -> list[int]:
        """The ids of what was removed."""
        generations = {store.id: store.collections for store in self._catalog.list_stores()}
        removed: list[int] = []
        postings: dict[str, list[Garbage]] = {}
        for item in gone:
            if item.kind != "postings":
                if self._remove_whole(item):
                    removed.append(item.id)
            elif item.store_id not in generations:  # went with its store
                removed.append(item.id)
            else:
                postings.setdefault(item.store_id, []).append(item)
        for store_id, items in postings.items():
            file_ids = list({str(item.file_id) for item in items})
            if _tried(self._remove_postings, generations[store_id], file_ids):
                removed += [item.id for item in items]
        return removed

    def _remove_whole(self, item: Garbage) -> bool:
        if item.kind == "bytes":
            return _tried(self._blobs.delete, str(item.file_id))
        return _tried(self.drop, str(item.collection))

    def _remove_postings(self, collections: Sequence[str], file_ids: Sequence[str]) -> None:
        for collection in collections:
            self._vectors.delete_files(collection, file_ids)
            self._lexical.replace(collection, file_ids, [])


def _tried(action: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> bool:
    try:
        action(*args, **kwargs)
    except (RAGError, OSError) as error:
        log.error("something deleted could not be removed yet: %s", error)
        return False
    return True
