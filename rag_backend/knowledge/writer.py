"""What is embedded goes into Chroma and tantivy, and then, in the catalog, it becomes visible."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import TypeVar

import numpy as np

from rag_backend.errors import NotFound, RAGError, StorageAway, StorageBroken
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.encoder import Encoder
from rag_backend.knowledge.jobs import Job, Jobs, Key, Slice
from rag_backend.knowledge.lexical import LexicalIndex, Posting
from rag_backend.knowledge.models import Store
from rag_backend.knowledge.refilling import DEFECT, Refill
from rag_backend.knowledge.spooling import Held
from rag_backend.knowledge.sweeping import Sweeper
from rag_backend.knowledge.vectors import VectorIndex

_TRANSACTION = 2000
"""Chunks that become visible in one transaction: more would make uploads wait for it."""

T = TypeVar("T")
K = TypeVar("K")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Failure:
    """A new file that cannot be indexed; `error` is None for a defect, which is logged."""

    key: Key
    error: Exception | None
    written: bool = True


@dataclass(slots=True)
class Outcome:
    """What came of a group of slices: stores in which something changed, failures, new files."""

    changed: set[str] = field(default_factory=set)
    failed: list[Failure] = field(default_factory=list)
    completed: int = 0
    chunks: int = 0


class Writer:
    """The only one who writes to Chroma and tantivy. Synchronous; one call at a time."""

    def __init__(
        self,
        catalog: Catalog,
        vectors: VectorIndex,
        lexical: LexicalIndex,
        sweeper: Sweeper,
        jobs: Jobs,
        refills: dict[str, list[Refill]],
    ) -> None:
        """`refills`, by store id, is the indexer's and changes under way."""
        self._catalog = catalog
        self._vectors = vectors
        self._lexical = lexical
        self._sweeper = sweeper
        self._jobs = jobs
        self._refills = refills
        self._outcome = Outcome()

    def sweep(self) -> set[Key]:
        """Remove what the catalog has retired; what could not be removed yet."""
        swept = self._sweeper.collect()
        self._jobs.outdate(swept.removed)
        for store_id, file_id in swept.removed:
            for refill in self._refills.get(store_id, ()):
                refill.forget(file_id)
        return swept.left

    def write(self, slices: Sequence[Slice]) -> Outcome:
        """Write a group, and make the files visible that are whole with it."""
        outcome = self._outcome = Outcome()
        # First of all: a file that was removed and came back must lose its old postings before it
        # gets its new ones.
        left = self.sweep()
        for store_id, parts in _grouped(slices, lambda part: part.job.store_id).items():
            self._write_store(store_id, parts, left)
        whole = [part.job for part in slices if part.is_last and not part.job.ended]
        self._complete([job for job in whole if job.refill is None])
        self.sweep()
        return outcome

    def finish(self, refill: Refill) -> bool:
        """Whether a refill lacks nothing any more; a rebuilt store serves it from now on.

        Raises:
            RAGError: What ended it before its time.
        """
        self.sweep()
        if refill.error is not None:
            raise refill.error
        try:
            store = self._catalog.store(refill.store.id)
        except NotFound:
            return True
        if self._is_overtaken(refill, store):
            return True
        lacking = refill.lacks_something()
        if refill.outdated:
            self._vectors.delete_files(refill.collection, refill.outdated)
            self._lexical.replace(refill.collection, refill.outdated, [])
        if lacking:
            return False
        if not refill.repairs and store.rebuilding and refill.encoder is not None:
            encoder = refill.encoder
            model, probe = encoder.embedding.model_id, encoder.probe
            revision = None if self._catalog.owner is None else store.revision
            if not self._catalog.swap_generation(store, model, probe, revision):
                return False  # another backend has changed the store meanwhile
            self._jobs.outdate_others(store.id, refill.collection)
            self.sweep()
        return True

    # One store

    def _write_store(self, store_id: str, parts: Sequence[Slice], left: set[Key]) -> None:
        for part in parts:
            if part.error is not None:
                self._fail(part.job, part.error)
            elif part.job.key in left:
                self._fail(part.job, StorageBroken(_LEFT))
        try:
            store = self._catalog.store(store_id)
        except NotFound:
            for part in parts:
                part.job.ended = True
            return
        except RAGError as error:
            self._fail_all(parts, error)
            return
        for part in parts:
            job = part.job
            if isinstance(job.refill, Refill):
                job.refill.overtaken |= self._is_overtaken(job.refill, store)
                job.ended |= job.refill.overtaken
            elif job.collection != store.collection:
                job.ended = job.again = True  # it was swapped under the job
        live = [part for part in parts if not part.job.ended]
        for collection, those in _grouped(live, lambda part: part.job.collection).items():
            self._write_or_fail(store, collection, those)

    def _is_overtaken(self, refill: Refill, store: Store) -> bool:
        """Whether the store has another generation by now, or another backend rebuilds it."""
        if refill.collection not in store.collections:
            return True
        if self._catalog.owner is None or refill.repairs:
            return False
        ours = store.rebuilding and store.rebuilder == self._catalog.owner
        return not ours or refill.collection != store.next_collection

    def _write_or_fail(self, store: Store, collection: str, parts: Sequence[Slice]) -> None:
        try:
            self._write(store, collection, parts)
        except RAGError as error:
            self._fail_all(parts, error)
        except Exception as error:
            files = list(dict.fromkeys(part.job.file_id for part in parts))
            log.exception("writing %s into %s failed", files, collection)
            if len(files) == 1:
                self._fail_all(parts, error)
                return
            for those in _grouped(parts, lambda part: part.job.file_id).values():
                self._write_or_fail(store, collection, those)  # the others need not suffer

    def _write(self, store: Store, collection: str, parts: Sequence[Slice]) -> None:
        encoders = [part.job.encoder for part in parts if part.job.encoder is not None]
        if store.embedding_probe is None and encoders and collection == store.collection:
            self._remember_encoder(store, encoders[0])
        self._put(collection, parts)
        for mirror, those in _grouped(parts, lambda part: part.job.mirror).items():
            if mirror is not None:
                self._put(mirror.collection, those)
                for part in those:
                    mirror.written(part.job.file_id, len(part.texts))
        for part in parts:
            if part.job.refill is not None:
                part.job.refill.written(part.job.file_id, len(part.texts))
        self._outcome.changed.add(store.id)

    def _put(self, collection: str, parts: Sequence[Slice]) -> None:
        """Vectors, then postings."""
        dense = [part for part in parts if part.vectors is not None and len(part.texts)]
        if dense:
            ids = [item for part in dense for item in part.ids]
            owners = [part.job.file_id for part in dense for _ in part.texts]
            rows = np.concatenate([part.vectors for part in dense if part.vectors is not None])
            self._vectors.add(collection, ids, owners, rows)
        worded = [part for part in parts if part.job.postings]
        first = [part.job.file_id for part in worded if part.start == 0]
        if worded:
            self._lexical.replace(collection, first, list(_postings(worded)))

    def _remember_encoder(self, store: Store, encoder: Encoder) -> None:
        model, probe = encoder.embedding.model_id, encoder.probe
        encoder.check(self._catalog.set_encoder(store.id, model, probe))

    # Ends of jobs

    def _complete(self, jobs: Sequence[Job]) -> None:
        for group in _transactions(jobs):
            self._complete_or_fail(group)

    def _complete_or_fail(self, jobs: Sequence[Job]) -> None:
        try:
            outcomes = self._catalog.complete_files(
                [(job.store_id, job.file_id, job.chunks or Held()) for job in jobs],
                {job.key: job.collection for job in jobs},
            )
        except Exception as error:
            if not isinstance(error, RAGError):
                log.exception("completing %s failed", [job.file_id for job in jobs])
            if len(jobs) == 1 or isinstance(error, StorageAway):
                for job in jobs:
                    self._fail(job, error)
                return
            for job in jobs:
                self._complete_or_fail([job])
            return
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.ended = True
            job.again |= outcome == "stale"
            if outcome == "completed":
                self._outcome.completed += 1
                self._outcome.chunks += job.size

    def _fail_all(self, parts: Iterable[Slice], error: Exception) -> None:
        for part in parts:
            self._fail(part.job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        if job.ended:
            return
        job.ended = True
        known = error if isinstance(error, RAGError) else None
        if isinstance(job.refill, Refill):
            job.refill.error = known or StorageBroken(DEFECT)
        else:
            self._outcome.failed.append(Failure(job.key, known))


_LEFT = (
    "What an earlier version of the file left cannot be removed: see the backend's log, then "
    "ingest the file again."
)


def _postings(parts: Sequence[Slice]) -> Iterator[Posting]:
    """Chunks to be indexed, each slice between the chunks that stand before and after it."""
    for last, part, following in zip([None, *parts], parts, [*parts[1:], None], strict=False):
        file_id, (before, after) = part.job.file_id, part.around
        if last is None or last.job is not part.job:
            yield from ((None, file_id, text) for text in before)
        yield from zip(part.ids, repeat(file_id), part.texts, strict=False)
        if following is None or following.job is not part.job:
            yield from ((None, file_id, text) for text in after)


def _transactions(jobs: Sequence[Job]) -> Iterable[list[Job]]:
    group: list[Job] = []
    for job in jobs:
        if group and sum(other.size for other in group) + job.size > _TRANSACTION:
            yield group
            group = []
        group.append(job)
    if group:
        yield group


def _grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    found: dict[K, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
