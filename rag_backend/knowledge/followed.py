"""The word index of a backend that shares its catalog: tantivy is each backend's own.

What the indexer of this backend writes, and what it brings over from the others, meet in one index;
a lock keeps commits apart. `follow` brings what is new, by the store's revision, in slices and the
newest first: what somebody put in a moment ago does not wait for a thousand other files. `compare`
looks at all completed files and at all that are known to be applied, so it does not matter how
often it is called, or what was missed.
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
from rag_backend.knowledge.lexical import Document, LexicalIndex, Posting, prepared
from rag_backend.knowledge.models import Store
from rag_backend.knowledge.sql.backends import Completed

_SLICE_CHUNKS = 128
"""Chunks indexed in one commit, or the first file: others wait a tenth of a second for it."""
_SLICE_FILES = 500
"""Files looked at together."""

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
        owners = [file_id for chunk_id, file_id, _ in added if chunk_id is not None]
        documents = prepared(added)
        with self._changing:
            self._touched.add(_store_of(collection))
            self._applied.forget(collection, {*owners})
            self._put(collection, gone, documents)
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

    def follow(self, store_id: str, after: int) -> bool:
        """Index a slice of what later revisions than `after` made visible, the newest first.

        Takes no longer in a large store, and looks for nothing that is gone (see `compare`).

        Returns:
            Whether nothing of it is left.
        """
        try:
            store = self._catalog.store(store_id)
        except NotFound:
            return True
        # Where the next generation is not whole yet, the last one answers, and goes on growing.
        collection = self._served(store.collection)
        found = self._bring_slice(store_id, collection, self._catalog.completed(store_id, after))
        return not found and not self._is_past(collection)

    def compare(self, store_id: str) -> None:
        """Bring the index to what the catalog says: all that it lacks, and all that is gone.

        Takes the longer the more files there are. What others do with the index waits for a slice
        at most.
        """
        try:
            store = self._catalog.store(store_id)
        except NotFound:
            self._current.pop(store_id, None)
            with self._changing:
                self._touched.discard(store_id)
            self._drop_all(store_id, keep=())
            return
        with self._changing:
            self._touched.discard(store_id)
            if self._is_past(store.collection):  # the catalog was put back from a copy
                del self._current[store_id]
        try:
            self._remove_stale(store)
            while self._bring_all(store):
                if self._halted:
                    return
        except RAGError:
            with self._changing:
                self._touched.add(store_id)
            raise
        rebuilds = store.rebuilding and store.rebuilder == self._catalog.owner
        kept = [store.collection, *([store.next_collection] if rebuilds else [])]
        self._drop_all(store_id, keep=kept)

    def discard(self, collection: str) -> None:
        """See LexicalIndex; `compare` makes it anew."""
        with self._changing:
            self._touched.add(_store_of(collection))
            self._really_drop(collection)

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

    def _bring_all(self, store: Store) -> bool:
        """What a look at both sides says is to be done; whether there was anything."""
        store_id, collection = store.id, store.collection
        if self._current.get(store_id) == collection:
            return self._bring_missing(store_id, collection, *self._missing(store_id, collection))
        gone, missing = self._missing(store_id, collection)
        if not gone and not missing:
            # What came last went to the generation that has answered until now.
            with self._changing:
                gone, missing = self._missing(store_id, collection)
                if not gone and not missing:
                    self._current[store_id] = collection
        return self._bring_missing(store_id, collection, gone, missing)

    def _missing(self, store_id: str, collection: str) -> tuple[list[str], list[Completed]]:
        """Files that are here and not in the catalog, and the other way round, newest first."""
        held = self._applied.files(collection)
        wanted = {file.file_id: file for file in self._catalog.completed(store_id)}
        gone = [file_id for file_id in held if file_id not in wanted]
        new = [file for file in wanted.values() if held.get(file.file_id) != file.sequence]
        return gone, sorted(new, key=lambda file: -file.sequence)

    def _bring_missing(
        self, store_id: str, collection: str, gone: Sequence[str], missing: Sequence[Completed]
    ) -> bool:
        if gone:
            with self._changing:
                self._put(collection, gone, [])
        for at in range(0, len(missing), _SLICE_FILES):
            part = missing[at : at + _SLICE_FILES]
            while not self._halted and self._bring_slice(store_id, collection, part):
                pass
        return bool(gone or missing)

    def _bring_slice(self, store_id: str, collection: str, files: Sequence[Completed]) -> bool:
        """Index the first of the files that are not here yet; whether there were any."""
        held = self._applied.held(collection, [file.file_id for file in files])
        new = [file for file in files if held.get(file.file_id) != file.sequence]
        own = {file.file_id: file.sequence for file in new if file.owner == self._catalog.owner}
        adopted = self._adopt(store_id, collection, own)
        entries: list[Posting] = []
        brought: dict[str, tuple[int, int]] = {}
        for file in new:
            if file.file_id in adopted:
                continue
            chunks = self._catalog.file_chunks(store_id, file.file_id)
            entries += [(chunk.id, chunk.file_id, chunk.indexed_text) for chunk in chunks]
            brought[file.file_id] = file.sequence, len(chunks)
            if len(entries) >= _SLICE_CHUNKS:
                break
        if brought:
            documents = prepared(entries)  # takes longest, and keeps nobody waiting
            with self._changing:
                if self._is_past(collection):  # dropped meanwhile: nobody would look there
                    return False
                self._put(collection, list(brought), documents)
                self._applied.record(collection, brought)
        return bool(new)

    def _adopt(self, store_id: str, collection: str, own: Mapping[str, int]) -> set[str]:
        """What this backend's indexer wrote itself needs no second time."""
        if not own:
            return set()
        counts = self._catalog.chunks_of(store_id, list(own))
        with self._changing:
            if self._is_past(collection):
                return set()
            whole = {
                file_id: (sequence, counts.get(file_id, 0))
                for file_id, sequence in own.items()
                if self._written.get((collection, file_id), 0) == counts.get(file_id, 0)
            }
            self._applied.record(collection, whole)
            for file_id in whole:
                self._written.pop((collection, file_id), None)
        return set(whole)

    def _put(self, collection: str, gone: Sequence[str], documents: Sequence[Document]) -> None:
        self._applied.forget(collection, gone)
        for file_id in gone:
            self._written.pop((collection, file_id), None)
        self._commit(collection, gone, documents)

    def _served(self, collection: str) -> str:
        return self._current.get(_store_of(collection), collection)

    def _is_past(self, collection: str) -> bool:
        """Whether a later generation answers already."""
        store_id, _, generation = collection.rpartition("-")
        current = self._current.get(store_id)
        return current is not None and int(generation) < int(current.rpartition("-")[2])

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
