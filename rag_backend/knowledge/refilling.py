"""Derived data of a store made anew from the catalog, slice by slice, beside all other work.

A *rebuild* fills the next generation of a store, and the store serves it once it lacks nothing. A
*repair* puts back, where the store serves from, what a disk or a hand has taken away.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rag_backend.errors import RAGError, StorageAway, StorageLost, UpstreamError
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.embedding import same_model
from rag_backend.knowledge.encoder import Encoder
from rag_backend.knowledge.jobs import Job, Slice
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import Store
from rag_backend.knowledge.vectors import VectorIndex

_COMPARED = 3
"""Vectors of an interrupted rebuild that are looked at to see whose they are."""
DEFECT = "Internal error: the backend's log has the details."
"""What a refill says that an unexpected error stopped."""

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Refill:
    """A store's files on their way from the catalog into one collection; a source of slices.

    Attributes:
        collection: Where to; the store's next generation, or (`repairs`) the one that it serves.
        encoder: What embeds; None where only postings are missing.
        postings: Whether words are indexed too.
        total, made: Chunks that there are to write, and that are written.
        error: What ended it before its time.
        overtaken: The store does not serve the collection any more, nor will.
        outdated: Files of which other backends have taken away what was written, or replaced it:
            what is left of it in the collection must go.
    """

    store: Store
    collection: str
    catalog: Catalog
    encoder: Encoder | None
    postings: bool
    repairs: bool
    total: int = 0
    made: int = 0
    error: RAGError | None = None
    overtaken: bool = False
    outdated: list[str] = field(default_factory=list)
    _wanted: dict[str, int] = field(default_factory=dict)
    _files: deque[str] = field(default_factory=deque)
    _done: dict[str, int] = field(default_factory=dict)
    _sequences: dict[str, int] = field(default_factory=dict)
    _job: Job | None = None
    _open: dict[str, Job] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, wanted: Mapping[str, int], done: Iterable[str] = ()) -> None:
        """Set out to write files, of each so many chunks, but for those that are done."""
        self._sequences = self._now()
        self._done = {file_id: wanted[file_id] for file_id in done}
        self.total, self.made = sum(wanted.values()), sum(self._done.values())
        self._set_out(wanted)

    def _set_out(self, wanted: Mapping[str, int]) -> bool:
        self._wanted = dict(wanted)
        for file_id, number in wanted.items():
            if self._done.get(file_id) != number:
                self.forget(file_id)
                self._files.append(file_id)
        return bool(self._files)

    def lacks_something(self) -> bool:
        """Whether files have come, or come back, since it began: these are its files now.

        To be asked where nothing else makes files visible, when all slices are written.
        """
        if self.repairs:
            return False
        before, self._sequences = self._sequences, self._now()
        wanted = self.catalog.chunk_counts(self.store.id)
        if self.catalog.owner is not None:
            self._compare(before, wanted)
        self.total = sum(wanted.values())
        return self._set_out(wanted)

    def _now(self) -> dict[str, int]:
        """{file id: sequence}, by which versions differ; what this backend removes it knows."""
        if self.catalog.owner is None:
            return {}
        return {file.file_id: file.sequence for file in self.catalog.completed(self.store.id)}

    def _compare(self, before: Mapping[str, int], wanted: Mapping[str, int]) -> None:
        """Note what others have removed, or removed and attached again."""
        now = self._sequences
        with self._lock:
            done = list(self._done)
        self.outdated = [
            file_id
            for file_id in done
            if file_id not in wanted or before.get(file_id, now.get(file_id)) != now.get(file_id)
        ]
        for file_id in self.outdated:
            self.forget(file_id)

    # A source of slices

    @property
    def exhausted(self) -> bool:
        """See `rotation.Source`."""
        return self.overtaken or self.error is not None or (self._job is None and not self._files)

    def take(self, most: int) -> list[Slice]:
        """See `rotation.Source`."""
        taken: list[Slice] = []
        room = most
        while room > 0 and not self.exhausted:
            if self._job is None:
                self._job = self._next()
            for part in self._job.take(room):
                taken.append(part)
                room -= part.stop - part.start
            if self._job.exhausted:
                self._job = None
        return taken

    def _next(self) -> Job:
        file_id = self._files.popleft()

        def texts(start: int, stop: int) -> list[str]:
            found = self.catalog.file_chunks(self.store.id, file_id, start, stop)
            return [chunk.indexed_text for chunk in found]

        job = self._open[file_id] = Job(
            self.store.id,
            file_id,
            self.collection,
            size=self._wanted[file_id],
            texts=texts,
            encoder=self.encoder,
            postings=self.postings,
            refill=self,
        )
        # It is open before its chunks are read: if the file is removed from here on, it learns so.
        return job

    # Progress

    def written(self, file_id: str, chunks: int) -> None:
        """So many more chunks of the file are in the collection."""
        with self._lock:
            self.made += chunks
            self._done[file_id] = self._done.get(file_id, 0) + chunks
            if self._done[file_id] == self._wanted.get(file_id):
                self._open.pop(file_id, None)

    def forget(self, file_id: str) -> None:
        """What was written of the file is gone, or is not what it contains now."""
        with self._lock:
            self.made -= self._done.pop(file_id, 0)
            if file_id in self._open:
                self._open.pop(file_id).ended = True


def begin_rebuild(
    catalog: Catalog,
    vectors: VectorIndex,
    lexical: LexicalIndex,
    store: Store,
    encoder: Encoder,
) -> Refill:
    """A refill of the next generation, which goes on where an earlier one was interrupted.

    Takes seconds where there is much to go on from. Raises RAGError.
    """
    target = store.next_collection
    refill = Refill(store, target, catalog, encoder, postings=True, repairs=False)
    wanted = catalog.chunk_counts(store.id)
    done: set[str] = set()
    try:
        dense, worded = vectors.ids(target), lexical.ids(target)
        made = dense & worded
        if made and _are_of(vectors, target, made, catalog, store, encoder):
            done = _whole(made, wanted)
            if stray := sorted(_files(dense | worded) - done):
                vectors.delete_files(target, stray)
                lexical.replace(target, stray, [])
    except RAGError as error:
        if _is_away(error):
            raise  # nothing is wrong with what there is
        log.warning("a rebuild begins anew, since what there is of it cannot be used: %s", error)
        done = set()
    if not done:
        vectors.drop(target)
        lexical.drop(target)
    refill.begin(wanted, done)
    return refill


def _is_away(error: RAGError) -> bool:
    """Whether a server does not answer now, which says nothing of what it holds."""
    return isinstance(error, (StorageAway, UpstreamError)) and not isinstance(error, StorageLost)


def begin_repair(
    catalog: Catalog,
    vectors: VectorIndex,
    lexical: LexicalIndex,
    store: Store,
    encoder: Encoder | None,
) -> Refill | None:
    """A refill of what the store lacks: its postings without an encoder, its vectors with one.

    What it has too much goes at once. New files may be written meanwhile: what there is of them is
    left alone. None when nothing is missing. Raises RAGError.
    """
    here = store.collection
    index: VectorIndex | LexicalIndex = vectors if encoder is not None else lexical
    try:
        found = index.ids(here)
        if encoder is not None and vectors.count(here) != len(found):
            raise StorageLost(f"The vectors in {here} are not whole.")
    except RAGError as error:
        if _is_away(error):
            raise
        log.warning("%s", error)
        index.drop(here)
        found = set()
    wanted = catalog.chunk_counts(store.id)
    whole = _whole(found, wanted)
    under_way = {file.file_id for file in catalog.list_store_files(store.id, "in_progress")}
    stray = sorted(_files(found) - whole - under_way)
    if catalog.owner is not None:
        stray = []  # another backend may have attached and completed it since
    if stray and encoder is not None:
        vectors.delete_files(here, stray)
    elif stray:
        lexical.replace(here, stray, [])
    missing = {file_id: n for file_id, n in wanted.items() if file_id not in whole}
    if not missing:
        return None
    refill = Refill(store, here, catalog, encoder, postings=encoder is None, repairs=True)
    refill.begin(missing)
    return refill


def _are_of(
    vectors: VectorIndex,
    collection: str,
    made: set[str],
    catalog: Catalog,
    store: Store,
    encoder: Encoder,
) -> bool:
    """Whether an interrupted rebuild was made with this encoder, by some of its vectors."""
    texts = catalog.visible_chunks(store.id, sorted(made)[:_COMPARED])
    if not texts:
        return False
    found = vectors.get(collection, list(texts))
    ours = encoder.embedding.embed([chunk.indexed_text for chunk in texts.values()], "document")
    return all(
        item in found and same_model(found[item].tobytes(), mine.tobytes())
        for item, mine in zip(texts, ours, strict=True)
    )


def _whole(ids: Iterable[str], wanted: Mapping[str, int]) -> set[str]:
    """Files of which there is every chunk, and nothing more."""
    found = Counter(item.rpartition(":")[0] for item in ids)
    return {file_id for file_id, number in found.items() if wanted.get(file_id) == number}


def _files(ids: Iterable[str]) -> set[str]:
    return {item.rpartition(":")[0] for item in ids}
