"""What the catalog has retired leaves Chroma, tantivy and the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import ParamSpec

from rag_backend.errors import RAGError
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import Garbage
from rag_backend.knowledge.vectors import VectorIndex

P = ParamSpec("P")

log = logging.getLogger(__name__)


class Sweeper:
    """Removes garbage. Synchronous; for the thread of the indexer's writer only."""

    def __init__(
        self, catalog: Catalog, blobs: Blobs, vectors: VectorIndex, lexical: LexicalIndex
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._vectors = vectors
        self._lexical = lexical

    def collect(self) -> None:
        """Remove what can be removed; the rest stays written down, for the next time."""
        try:
            self._catalog.collect_garbage(self._remove)
        except RAGError as error:
            log.error("what was deleted is still on disk: %s", error)

    def drop(self, collection: str) -> None:
        """Delete a store generation's derived data."""
        self._vectors.drop(collection)
        self._lexical.drop(collection)

    def _remove(self, gone: Sequence[Garbage]) -> list[int]:
        """The ids of what was removed."""
        generations = {store.id: store.collection for store in self._catalog.list_stores()}
        removed: list[int] = []
        postings: dict[str, list[Garbage]] = {}
        for item in gone:
            if item.kind != "postings":
                if self._remove_whole(item):
                    removed.append(item.id)
            elif item.store_id not in generations:  # went with its store
                removed.append(item.id)
            else:
                postings.setdefault(generations[item.store_id], []).append(item)
        for collection, items in postings.items():
            file_ids = list({str(item.file_id) for item in items})
            if _tried(self._remove_postings, collection, file_ids):
                removed += [item.id for item in items]
        return removed

    def _remove_whole(self, item: Garbage) -> bool:
        if item.kind == "bytes":
            return _tried(self._blobs.delete, str(item.file_id))
        return _tried(self.drop, str(item.collection))

    def _remove_postings(self, collection: str, file_ids: Sequence[str]) -> None:
        self._vectors.delete_files(collection, file_ids)
        self._lexical.replace(collection, file_ids, [])


def _tried(action: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> bool:
    try:
        action(*args, **kwargs)
    except (RAGError, OSError) as error:
        log.error("something deleted could not be removed yet: %s", error)
        return False
    return True
