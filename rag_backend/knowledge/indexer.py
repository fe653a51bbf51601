"""The write path: from an attached file to visible chunks, and out again.

A job is a store file that is `in_progress`. It passes three stages that work at the same time, with
little waiting between them: readers (`intake`) turn bytes into chunks, one task embeds slices of
many files together (`vectorising`), and one writer puts them into Chroma and tantivy and makes
whole files visible in one catalog transaction (`writer`). Stores that are rebuilt or repaired
(`refilling`) take turns with new files (`rotation`). Whatever happens before that transaction is
invisible and is done again after a restart; what it retires is garbage that the writer removes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rag_backend.errors import RAGError, StorageAway, StorageBroken
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.calibrator import Calibrator
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.encoders import Encoders
from rag_backend.knowledge.finishing import Threads
from rag_backend.knowledge.healing import Healing
from rag_backend.knowledge.intake import Intake
from rag_backend.knowledge.jobs import Job, Jobs, Key, Slice
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import Progress, Store, StoreFile
from rag_backend.knowledge.reading import ReadingPool
from rag_backend.knowledge.recovery import Recovery
from rag_backend.knowledge.refilling import DEFECT, Refill
from rag_backend.knowledge.refills import Refills
from rag_backend.knowledge.retries import TRIES, Retries
from rag_backend.knowledge.rotation import Rotation, Source
from rag_backend.knowledge.sweeping import Sweeper
from rag_backend.knowledge.vectorising import Vectoriser
from rag_backend.knowledge.vectors import VectorIndex
from rag_backend.knowledge.writer import Failure, Writer
from rag_backend.metrics import Metrics

_BATCH = 512
"""Chunks embedded together, of as many files as it takes; bounds how long a new file waits."""
_AHEAD = 2
"""Batches that are embedded and wait for the writer, or are being written."""
_RETRY_SECONDS = 60
"""After this, a job is tried again whose failure could not even be recorded."""
_AWAY_SECONDS = 5
"""After this, a job is tried again that met a database server which did not answer."""
_DEFECT_SECONDS = 10
"""After this, a job is tried again that an unexpected error stopped."""
_PAUSE_SECONDS = 1.0
"""A loop that an unexpected error stopped goes on after this: not as fast as it can fail."""
_STOPPED = (
    f"An internal error has stopped the indexing of this file {TRIES} times: the backend's log has "
    "the details; ingest the file again once they are dealt with."
)
_THREADS = 4
"""One that embeds, one that writes, and two for readers' look-ups and preparations."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """What the writer gets: slices, embedded, and refills that have no more of them."""

    slices: Sequence[Slice]
    drained: Sequence[Refill]
    counted: bool = True


_SWEEP = Batch((), (), counted=False)


class Indexer:
    """Owns the jobs and the derived data of every store."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: Blobs,
        vectors: VectorIndex,
        lexical: LexicalIndex,
        encoders: Encoders,
        reading: ReadingPool,
        readers: int,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics = metrics or Metrics()
        self._catalog = catalog
        self._encoders = encoders
        self._halted = False
        self._reading = reading
        self._readers = readers
        self.calibrator = Calibrator(catalog, encoders.present)
        self._threads = Threads(_THREADS)
        self._jobs = Jobs()
        sweeper = Sweeper(catalog, blobs, vectors, lexical)
        self._recovery = Recovery(catalog, blobs, vectors, lexical, sweeper)
        self._refills = Refills(
            *(catalog, vectors, lexical, encoders, self._recovery, self._threads, self._add)
        )
        self._healing = Healing(
            *(catalog, vectors, lexical, self._recovery, self._refills, self._jobs, self._threads),
            self._begin,
        )
        under_way = self._refills.under_way
        self._writer = Writer(catalog, vectors, lexical, sweeper, self._jobs, under_way)
        self._intake = Intake(
            *(catalog, blobs, reading, encoders, self._jobs, self._threads),
            self._refills.mirror_of,
            partial(metrics.spent, "read"),
        )
        self._rotation = Rotation()
        self._vectoriser = Vectoriser(self._threads)
        self._arrived = asyncio.Event()
        self._ahead = asyncio.Semaphore(_AHEAD)
        self._embedded: asyncio.Queue[Batch] = asyncio.Queue()
        self._changed: set[str] = set()
        self._retries = Retries(self._intake.submit)
        self._tasks: set[asyncio.Task[None]] = set()
        self._problem: str | None = None

    async def start(self) -> None:
        """Resume what an earlier process left, then work until `stop`."""
        unfinished = await self._threads.run(self._recovery.clean_up)
        for file in unfinished:
            self.submit(file)
        for store in await self._threads.run(self._catalog.claim_rebuilds, own=True):
            self.resume_rebuild(store.id)
        for store in await self._threads.run(self._catalog.list_stores):
            # Being repaired already: the last attempt to start met a catalog that went away.
            if not store.rebuilding and self._refills.progress(store) is None:
                # Counted before anything is written, which would look like a loss.
                lost = await self._threads.run(self._recovery.lost, store)
                self._begin(self._refills.repair(store, lost))
                self.calibrator.consider(store.id)
        for loop in (self._embed(), self._write(), self.calibrator.run()):
            self._begin(loop)
        self._begin(self._intake.run(self, self._readers))
        self._begin(self._healing.run(self.sweep))

    def halt(self) -> None:
        """Begin to stop: from now on nothing fails, whatever it lacks; returns at once."""
        self._halted = True
        self._refills.stop()
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """Stop at once; unfinished jobs are resumed at the next start."""
        self.halt()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._encoders.stop()
        await asyncio.to_thread(self._reading.close)
        await asyncio.to_thread(self._threads.close)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What others ask for

    def submit(self, file: StoreFile) -> None:
        """Index a file that was just attached; returns at once. Others' jobs are left to them."""
        if file.status == "in_progress" and self._catalog.is_mine(file):
            self._intake.submit((file.store_id, file.file_id))

    def sweep(self) -> None:
        """Remove, soon, what the catalog has retired."""
        self._embedded.put_nowait(_SWEEP)

    async def rebuild(self, store: Store) -> None:
        """Make a store's vectors and postings anew, soon; the old ones serve until then."""
        begun = await asyncio.to_thread(self._catalog.begin_rebuild, store.id)
        if begun.rebuilder == self._catalog.owner:
            self.resume_rebuild(store.id)

    def resume_rebuild(self, store_id: str) -> None:
        """Rebuild a store, soon, that is marked so and this backend's to rebuild."""
        self._begin(self._refills.rebuild(store_id))

    @property
    def pending(self) -> int:
        """Files that are not read, or read and not written."""
        return len(self._intake) + len(self._jobs) + len(self._retries)

    @property
    def problem(self) -> str | None:
        """What keeps files from being written, in a sentence; None since it has worked again."""
        problems = (self._healing.problem, self._vectoriser.problem, self._problem)
        return next(filter(None, problems), self._refills.problem or self._reading.problem)

    def progress(self, store: Store) -> Progress | None:
        """How far a rebuild or repair of the store is; None when there is none."""
        return self._refills.progress(store)

    def is_whole(self, store: Store) -> bool:
        """Whether what the store serves lacks nothing, as far as is known."""
        if not self._healing.is_sound(store):
            return False
        return store.rebuilding or self._refills.progress(store) is None

    @property
    def rebuilding(self) -> list[str]:
        """Names of the stores that are being rebuilt or repaired."""
        return self._refills.names

    # Files that have been read (see `intake.Receiver`)

    def receive(self, job: Job) -> None:
        """It waits to be embedded."""
        if job.ended:  # removed while it was read
            self._close(job)
        else:
            self._add(job)

    async def reject(self, job: Job, error: Exception | None) -> None:
        """It cannot be indexed."""
        self._close(job)
        await self._record(Failure(job.key, error, written=False))
        self.sweep()

    def drop(self, job: Job) -> None:
        """There is nothing to do for it."""
        self._close(job)

    def _close(self, job: Job) -> None:
        self._intake.room.leave(job)
        if self._jobs.close(job):
            self._intake.submit(job.key)
        self._intake.look_again()

    async def _record(self, failure: Failure) -> None:
        if self._halted:
            return  # it may have failed of that; it is resumed at the next start
        store_id, file_id = failure.key
        error = failure.error
        if isinstance(error, StorageAway):  # nothing is wrong with the file
            self._again_later(failure.key, error)
            return
        code = getattr(error, "code", None) if not isinstance(error, RAGError) else "server_error"
        message = str(error) if error else "Internal error: the backend's log has the details."
        try:
            await self._threads.run(
                self._catalog.fail,
                *(store_id, file_id, code or "server_error", message),
                written=failure.written,
            )
        except RAGError as problem:
            # A full disk, most likely: the job stays in progress until there is room again.
            self._again_later(failure.key, problem)
        else:
            self._metrics.files_indexed.labels("failed").inc()

    def _again_later(self, key: Key, problem: RAGError) -> None:
        seconds = _AWAY_SECONDS if isinstance(problem, StorageAway) else _RETRY_SECONDS
        again = "%s cannot be indexed now, and is tried again in %d s: %s"
        log.error(again, key[1], seconds, problem)
        self._retries.later(key, seconds)

    async def lose(self, job: Job) -> None:
        """An unexpected error, which was logged, stopped whoever had it: try it again, some times.

        What was written of it is written again, under the same ids.
        """
        self._close(job)
        if self._halted:
            return
        if self._retries.stopped_by_defect(job.key):
            self._retries.later(job.key, _DEFECT_SECONDS)
            return
        try:
            await self._record(Failure(job.key, StorageBroken(_STOPPED)))
        except Exception:
            log.exception("the failure of %s cannot be recorded", job.file_id)
            self._retries.later(job.key, _RETRY_SECONDS)
        self.sweep()

    async def _lose_all(self, slices: Iterable[Slice], drained: Iterable[Refill] = ()) -> None:
        """See `lose`; a refill that has lost a part stops, and goes on after a while."""
        jobs = dict.fromkeys(part.job for part in slices)
        for refill in dict.fromkeys([*drained, *(job.refill for job in jobs)]):
            if isinstance(refill, Refill):
                refill.error = refill.error or StorageBroken(DEFECT)
        for refill in drained:
            self._add(refill)  # it has nothing more to give, and is ended in its turn
        for job in jobs:
            if job.refill is None:
                await self.lose(job)
        await asyncio.sleep(_PAUSE_SECONDS)

    # Embedding

    def _add(self, source: Source) -> None:
        self._rotation.add(source)
        self._arrived.set()

    async def _embed(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while True:
                await self._ahead.acquire()
                try:
                    batch = await self._next_batch()
                except Exception:
                    log.exception("no chunks could be taken to be embedded; it goes on")
                    await asyncio.sleep(_PAUSE_SECONDS)
                    batch = Batch((), ())
                if batch is None:
                    self._ahead.release()
                    break
                self._embedded.put_nowait(batch)

    async def _next_batch(self) -> Batch | None:
        """A batch, embedded; None when there is nothing to do."""
        slices, ended = await self._threads.run(self._rotation.take, _BATCH)
        if not slices and not ended:
            return None
        drained = [source for source in ended if isinstance(source, Refill)]
        began = time.monotonic()
        try:
            await self._vectoriser.add_vectors(slices)
        except Exception:
            log.exception("embedding failed; what it was about is tried again")
            await self._lose_all(slices, drained)
            return Batch((), ())
        self._metrics.spent("embed", time.monotonic() - began)
        return Batch(slices, drained)

    # Writing

    async def _write(self) -> None:
        while True:
            group = [await self._embedded.get()]
            while not self._embedded.empty():
                group.append(self._embedded.get_nowait())
            try:
                async with self._refills.writing:
                    await self._write_group(group)
            except Exception:
                log.exception("the writer failed; what it had is tried again")
                slices = [part for batch in group for part in batch.slices]
                await self._lose_all(slices, [each for batch in group for each in batch.drained])
            for batch in group:
                if batch.counted:
                    self._ahead.release()
            for job in self._jobs.ended():
                self._retries.forget(job.key)
                self._close(job)
            if not self.pending:  # what learning costs is not taken from ingestion
                for store_id in self._changed:
                    self.calibrator.consider(store_id)
                self._changed.clear()

    async def _write_group(self, group: Sequence[Batch]) -> None:
        slices = [part for batch in group for part in batch.slices]
        began = time.monotonic()
        outcome = await self._threads.run(self._writer.write, slices)
        self._metrics.spent("write", time.monotonic() - began)
        self._metrics.files_indexed.labels("completed").inc(outcome.completed)
        self._metrics.chunks_indexed.inc(outcome.chunks)
        self._changed |= outcome.changed
        for failure in outcome.failed:
            self._problem = str(failure.error) if failure.error else self._problem
            await self._record(failure)
        if outcome.failed:
            await self._threads.run(self._writer.sweep)
        elif outcome.changed:
            self._problem = None
        for batch in group:
            for refill in batch.drained:
                if await self._refills.finish(refill, self._writer.finish):
                    self._changed.add(refill.store.id)
