"""Vectors in Chroma: one collection a store generation, ids are chunk ids, no texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import chain
from typing import Any, cast

import numpy as np

from rag_backend.knowledge.chroma import Chroma, Collection, is_chromas
from rag_backend.knowledge.embedding import Vectors
from rag_backend.knowledge.filters import Selection
from rag_backend.knowledge.kept_vectors import FileVectors, KeptVectors, nearest
from rag_backend.knowledge.suspects import Suspects

_FILES_AT_ONCE = 5000
"""File ids in one condition; Chroma puts them into SQLite, which binds at most 32,766."""
_LOOKED_AT = 400
"""Results asked of Chroma at least: its graph is searched the more thoroughly the more are wanted.
(docs/ARCHITECTURE.md, "The read path", has the recall of 100 and of 400.)
(Its own setting for this, `ef_search`, holds for new collections only.)"""
_LOOSE = 0.08
"""A filter that lets through this share of the files or more is applied to the nearest of all
chunks; below, looking at enough of them costs more than Chroma's own search among some."""
_FEW = 5000
"""Chunks that are compared one by one: 2 ms, against 20 for Chroma's search among so few."""
_READ_AT_ONCE = 1000
"""Vectors that one search reads from Chroma, which takes 25 ms."""


class VectorIndex:
    """Cosine neighbours of a query vector. Synchronous; safe to call from several threads."""

    def __init__(self, chroma: Chroma) -> None:
        self._chroma = chroma
        self._batch = min(chroma.client.get_max_batch_size(), 2000)
        self._kept = KeptVectors()

    def add(
        self, collection: str, ids: Sequence[str], file_ids: Sequence[str], vectors: Vectors
    ) -> None:
        """Insert or overwrite. `vectors` is float32 of shape (len(ids), dimension)."""

        def write() -> None:
            target = self._chroma.created(collection)
            for at in range(0, len(ids), self._batch):
                part = slice(at, at + self._batch)
                metadatas: list[Any] = [{"file_id": file_id} for file_id in file_ids[part]]
                target.upsert(
                    ids=list(ids[part]),
                    embeddings=np.asarray(vectors[part], dtype=np.float32),
                    metadatas=metadatas,
                )

        try:
            self._chroma.guard(write, of=collection)
        finally:
            self._kept.forget(collection, set(file_ids))

    def delete_files(self, collection: str, file_ids: Sequence[str]) -> None:
        """Remove every vector of the files; a collection that does not exist holds none."""

        def remove() -> None:
            for where in _conditions(file_ids):
                self._chroma.existing(collection).delete(where=where)

        try:
            self._chroma.guard(remove, lambda: None, collection)
        finally:
            self._kept.forget(collection, file_ids)

    def search(
        self, collection: str, vector: Vectors, k: int, allowed: Selection | None = None
    ) -> list[tuple[str, float]]:
        """(chunk id, cosine in -1..1) of the k nearest, nearest first.

        Args:
            vector: One query, float32 of shape (dimension,).
            allowed: Only chunks of these files; None for all.
        """

        def query() -> list[tuple[str, float]]:
            if allowed is None:
                return self._nearest(collection, vector, k)
            if allowed.share >= _LOOSE:
                enough = allowed.enough(k)
                all_found = self._nearest(collection, vector, enough)
                found = [pair for pair in all_found if pair[0] in allowed][:k]
                if len(found) == k or len(all_found) < enough:
                    return found
            return self._among(collection, vector, k, allowed)

        def missing() -> list[tuple[str, float]]:
            # Perhaps nothing was ever put into the store.
            self._chroma.suspects.add(collection, certain=self._chroma.knows(collection))
            return []

        return self._chroma.guard(query, missing, collection)

    def _nearest(
        self, collection: str, vector: Vectors, k: int, **among: Any
    ) -> list[tuple[str, float]]:
        """Chroma's own search, among all chunks or those that its `ids` or `where` name."""

        def query(source: Collection) -> list[tuple[str, float]]:
            found = source.query(
                query_embeddings=np.asarray([vector], dtype=np.float32),
                n_results=max(k, _LOOKED_AT),
                include=["distances"],
                **among,
            )
            distances = (found["distances"] or [[]])[0][:k]
            ids = found["ids"][0][:k]
            return [(i, 1.0 - float(d)) for i, d in zip(ids, distances, strict=True)]

        return self._chroma.on(collection, query)

    def _among(
        self, collection: str, vector: Vectors, k: int, allowed: Selection
    ) -> list[tuple[str, float]]:
        """The nearest of the allowed chunks alone: exact while they are few."""
        if not allowed.size:
            return []
        if allowed.size <= _FEW:
            files = self._few(collection, allowed)
            if files is not None:
                return nearest(files, vector, k)
        try:
            return self._nearest(collection, vector, k, ids=allowed.chunks())
        except Exception as error:
            if not is_chromas(error):
                raise
        # Chroma fails when one of the ids is gone: deleted a moment ago, or lost. To name the files
        # instead takes five times as long, and finds what is there.
        wheres = _conditions(list(allowed.versions))
        parts = [self._nearest(collection, vector, k, where=where) for where in wheres]
        return nlargest(k, chain.from_iterable(parts), key=lambda pair: pair[1])

    def _few(self, collection: str, allowed: Selection) -> list[FileVectors] | None:
        """The vectors of all allowed files; None while too many of them are not in memory yet.

        Of those, some are read each time: the next search with such a filter finds more of them.
        """
        epoch = self._kept.epoch
        kept = self._kept.get(collection, allowed.versions)
        missing = [file_id for file_id in allowed.counts if file_id not in kept]
        read = self._read(collection, allowed, missing)
        self._kept.put(collection, read, epoch)
        return None if len(read) < len(missing) else [*kept.values(), *read.values()]

    def _read(
        self, collection: str, allowed: Selection, file_ids: Sequence[str]
    ) -> dict[str, FileVectors]:
        """The first of the files' vectors, about `_READ_AT_ONCE` of them."""
        wanted: list[str] = []
        room = _READ_AT_ONCE
        for file_id in file_ids:
            if room <= 0:
                break
            wanted.append(file_id)
            room -= allowed.counts[file_id]
        ids = allowed.chunks(wanted)
        by_id: dict[str, Any] = {}

        def read(source: Collection) -> None:
            for at in range(0, len(ids), self._batch):
                rows = source.get(ids=ids[at : at + self._batch], include=["embeddings"])
                by_id.update(zip(rows["ids"], cast(Any, rows["embeddings"]), strict=True))

        self._chroma.on(collection, read)
        return {
            file_id: _file_vectors(allowed.versions[file_id], allowed.chunks([file_id]), by_id)
            for file_id in wanted
        }

    def count(self, collection: str) -> int:
        """Number of vectors; 0 for a collection that does not exist."""
        return self._chroma.guard(
            lambda: self._chroma.existing(collection).count(), int, collection
        )

    def ids(self, collection: str) -> set[str]:
        """Every chunk id; empty for a collection that does not exist."""

        def read() -> set[str]:
            source = self._chroma.existing(collection)
            found: set[str] = set()
            for at in range(0, source.count(), self._batch):
                found.update(source.get(limit=self._batch, offset=at, include=[])["ids"])
            return found

        return self._chroma.guard(read, set[str], collection)

    def get(self, collection: str, ids: Sequence[str]) -> dict[str, Vectors]:
        """{chunk id: its vector} of those that are there."""

        def read() -> dict[str, Vectors]:
            found = self._chroma.existing(collection).get(ids=list(ids), include=["embeddings"])
            rows = np.asarray(found["embeddings"], dtype=np.float32)
            return dict(zip(found["ids"], rows, strict=True))

        return self._chroma.guard(read, dict[str, Vectors], collection)

    def drop(self, collection: str) -> None:
        """Delete the collection, if it exists."""
        try:
            self._chroma.drop(collection)
        finally:
            self._kept.forget(collection)

    @property
    def suspects(self) -> Suspects:
        """Collections that were not found, or were made anew."""
        return self._chroma.suspects

    def heartbeat(self) -> None:
        """Raises StorageBroken when Chroma does not answer."""
        self._chroma.heartbeat()

    @property
    def damaged(self) -> bool:
        """See `Chroma.damaged`."""
        return self._chroma.damaged

    def reopen(self) -> bool:
        """See `Chroma.reopen`."""
        renewed = self._chroma.reopen()
        self._kept.clear()
        return renewed

    def close(self) -> None:
        """Let go of files or connections."""
        self._chroma.close()


def _file_vectors(version: str, ids: Sequence[str], by_id: Mapping[str, Any]) -> FileVectors:
    """A file's vectors as read: without those that Chroma has lost."""
    present = [item for item in ids if item in by_id]
    if not present:
        return FileVectors(version, (), np.empty((0, 0), dtype=np.float32))
    rows = np.asarray([by_id[item] for item in present], dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return FileVectors(version, present, rows / np.maximum(lengths, 1e-12))


def _conditions(file_ids: Sequence[str]) -> Iterator[Any]:
    """`where` clauses that together cover the files."""
    for at in range(0, len(file_ids), _FILES_AT_ONCE):
        yield {"file_id": {"$in": list(file_ids[at : at + _FILES_AT_ONCE])}}
