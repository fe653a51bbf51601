"""The word index of a backend that shares its catalog: tantivy is each backend's own.

What the indexer of this backend writes, and what `follow` brings over from the others, meet in one
index; a lock keeps the two apart. `follow` compares the catalog's completed files with those that
are known to be applied, so it does not matter how often it is called, or what was missed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rag_backend.errors import NotFound, RAGError
from rag_backend.knowledge.applied import Applied
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.filters import Selection
from rag_backend.knowledge.lexical import LexicalIndex, Posting
from rag_backend.knowledge.models import Store

_BATCH_CHUNKS = 2000
"""Chunks read from the catalog and indexed in one commit: bounds memory."""

log = logging.getLogger(__name__)


class FollowedIndex(LexicalIndex):
    """A word index that can be brought to what the catalog says."""

    def __init__(self, directory: Path, catalog: Catalog) -> None:
        super().__init__(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._catalog = catalog
        self._applied = Applied(directory.with_suffix(".sqlite"))
        self._changing = threading.RLock()
        self._written: dict[tuple[str, str], int] = {}
        """{(collection, file id): chunks written here and not yet known to be completed}."""
        self._current: dict[str, str] = {}
        """{store id: the newest collection that was followed to its end}."""
        self._touched: set[str] = set()
        self._halted = False

    def halt(self) -> None:
        """Follow no further: what is under way ends soon, and goes on at the next start."""
        self._halted = True

    def replace(self, collection: str, gone: Sequence[str], added: Sequence[Posting]) -> None:
        """See LexicalIndex. What is added counts once the catalog has it as completed."""
        with self._changing:
            owners = [file_id for chunk_id, file_id, _ in added if chunk_id is not None]
            self._touched.add(_store_of(collection))
            self._put(collection, gone, added)
            for file_id in owners:
                key = collection, file_id
                self._written[key] = self._written.get(key, 0) + 1

    def drop(self, collection: str) -> None:
        """See LexicalIndex; the generation that answers stays until `follow` has the next one."""
        if self._current.get(_store_of(collection)) != collection:
            self._really_drop(collection)

    def search(
        self, collection: str, query: str, k: int, allowed: Selection | None = None
    ) -> list[tuple[str, float]]:
        """See LexicalIndex; the last generation answers until the next one is here."""
        return super().search(self._served(collection), query, k, allowed)

    def term_weights(self, collection: str, query: str) -> dict[str, float]:
        """See LexicalIndex; the last generation answers until the next one is here."""
        return super().term_weights(self._served(collection), query)

    def follow(self, store_id: str) -> int:
        """Index what other backends have completed, and drop what they have removed.

        Returns:
            The number of files added or removed.
        """
        try:
            store = self._catalog.store(store_id)
        except NotFound:
            self._current.pop(store_id, None)
            self._touched.discard(store_id)
            self._drop_all(store_id, keep=())
            return 0
        with self._changing:
            self._touched.discard(store_id)
        changed = 0
        try:
            self._remove_stale(store)
            while part := self._follow_part(store):
                changed += part
                if self._halted:
                    return changed
        except RAGError:
            with self._changing:
                self._touched.add(store_id)
            raise
        self._current[store_id] = store.collection
        rebuilds = store.rebuilding and store.rebuilder == self._catalog.owner
        kept = [store.collection, *([store.next_collection] if rebuilds else [])]
        self._drop_all(store_id, keep=kept)
        return changed

    @property
    def touched(self) -> frozenset[str]:
        """The stores into which this backend has written since they were last followed."""
        with self._changing:
            return frozenset(self._touched)

    def stores(self) -> set[str]:
        """The ids of the stores that have an index here."""
        return {_store_of(path.name) for path in self._directory.iterdir() if path.is_dir()}

    def check(self, store: Store) -> None:
        """At the start: remove postings of jobs that a crash interrupted; make an index that has
        lost some, to a failing disk or a hand, anew."""
        collection = store.collection
        with self._changing:
            held = self._applied.files(collection)
            try:
                found = self.ids(collection)
            except RAGError as error:
                log.warning("%s", error)
                self._really_drop(collection)
                return
            unknown = {item.rpartition(":")[0] for item in found} - held.keys()
            if unknown:
                self._put(collection, sorted(unknown), [])
            if self.count(collection) != self._applied.count(collection):
                log.warning("the word index of '%s' is made anew from the catalog", store.name)
                self._really_drop(collection)

    def _remove_stale(self, store: Store) -> None:
        """Postings of jobs that have failed, or went to another backend, leave."""
        with self._changing:
            mine = [file_id for name, file_id in self._written if name == store.collection]
            if not mine:
                return
            wanted = self._catalog.at_work_or_done(store.id)
            stale = [file_id for file_id in mine if file_id not in wanted]
            if stale:
                self._put(store.collection, stale, [])

    def _follow_part(self, store: Store) -> int:
        """A batch of what is left to do; the number of files."""
        collection = store.collection
        with self._changing:
            wanted = {file.file_id: file for file in self._catalog.completed(store.id)}
            held = self._applied.files(collection)
            gone = [file_id for file_id in held if file_id not in wanted]
            new = {
                file_id: file.sequence
                for file_id, file in wanted.items()
                if held.get(file_id) != file.sequence
            }
            if not gone and not new:
                return 0
            own = [file_id for file_id in new if wanted[file_id].owner == self._catalog.owner]
            adopted = self._adopt(store, {file_id: new[file_id] for file_id in own})
            rest = {file_id: seq for file_id, seq in new.items() if file_id not in adopted}
            return len(adopted) + self._bring(store, gone, rest)

    def _adopt(self, store: Store, own: Mapping[str, int]) -> set[str]:
        """What this backend's indexer wrote itself needs no second time."""
        counts = self._catalog.chunks_of(store.id, list(own))
        whole = {
            file_id: (sequence, counts.get(file_id, 0))
            for file_id, sequence in own.items()
            if self._written.get((store.collection, file_id), 0) == counts.get(file_id, 0)
        }
        self._applied.record(store.collection, whole)
        for file_id in whole:
            self._written.pop((store.collection, file_id), None)
        return set(whole)

    def _bring(self, store: Store, gone: Sequence[str], new: Mapping[str, int]) -> int:
        """Remove `gone`, and add as many of the `new` files as fit into a batch."""
        entries: list[Posting] = []
        brought: dict[str, tuple[int, int]] = {}
        for file_id, sequence in new.items():
            chunks = self._catalog.file_chunks(store.id, file_id)
            entries += [(chunk.id, chunk.file_id, chunk.indexed_text) for chunk in chunks]
            brought[file_id] = sequence, len(chunks)
            if len(entries) >= _BATCH_CHUNKS:
                break
        touched = [*gone, *brought]
        if touched:
            self._put(store.collection, touched, entries)
            self._applied.record(store.collection, brought)
        return len(touched)

    def _put(self, collection: str, gone: Sequence[str], added: Sequence[Posting]) -> None:
        self._applied.forget(collection, {*gone, *(file_id for _, file_id, _ in added)})
        for file_id in gone:
            self._written.pop((collection, file_id), None)
        super().replace(collection, gone, added)

    def _served(self, collection: str) -> str:
        return self._current.get(_store_of(collection), collection)

    def _drop_all(self, store_id: str, keep: Iterable[str]) -> None:
        kept = set(keep)
        for path in self._directory.glob(f"{store_id}-*"):
            if path.is_dir() and path.name not in kept:
                self._really_drop(path.name)

    def _really_drop(self, collection: str) -> None:
        with self._changing:
            self._applied.forget_all([collection])
            for key in [key for key in self._written if key[0] == collection]:
                del self._written[key]
            super().drop(collection)


def _store_of(collection: str) -> str:
    return collection.rpartition("-")[0]
