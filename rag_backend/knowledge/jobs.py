"""Files on their way into a store: what is known of each, and which of them are out of date."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rag_backend.errors import RAGError
from rag_backend.knowledge.embedding import Vectors
from rag_backend.knowledge.encoder import Encoder
from rag_backend.knowledge.lexical import REACH
from rag_backend.knowledge.models import chunk_id
from rag_backend.knowledge.spooling import Chunks

Key = tuple[str, str]
"""(store id, file id)."""

log = logging.getLogger(__name__)


class Target(Protocol):
    """A store being refilled, which counts what is written for it."""

    collection: str

    def written(self, file_id: str, chunks: int) -> None:
        """So many more chunks of the file are in the collection."""
        ...


@dataclass(eq=False, slots=True)
class Job:
    """A file on its way into one generation of a store.

    Attributes:
        chunks: What was read; None for a file whose chunks are in the catalog already.
        texts: Reads what is embedded and indexed of the chunks from one number to another.
        collection: Names the derived data that it goes to.
        mirror: A refill of the same store with the same encoder: what is written for the job goes
            to its collection too, and need not be embedded again.
        refill: The refill that the job is a part of; None for a new file.
        encoder: None where only words are indexed.
        ended: Whoever holds a part of it lets go: it failed, or is out of date.
    """

    store_id: str
    file_id: str
    collection: str = ""
    chunks: Chunks | None = None
    size: int = 0
    texts: Callable[[int, int], Sequence[str]] = lambda _start, _stop: ()
    encoder: Encoder | None = None
    postings: bool = True
    mirror: Target | None = None
    refill: Target | None = None
    taken: int = 0
    begun: bool = False
    ended: bool = False
    again: bool = False

    @property
    def key(self) -> Key:
        """Its name among the jobs."""
        return self.store_id, self.file_id

    @property
    def exhausted(self) -> bool:
        """Whether nothing more can be taken from it."""
        return self.ended or (self.begun and self.taken >= self.size)

    def take(self, most: int) -> list[Slice]:
        """Its next chunks, at most so many; a job without chunks has one empty slice."""
        if self.exhausted:
            return []
        self.begun = True
        start, stop = self.taken, min(self.size, self.taken + most)
        self.taken = stop
        before, after = min(REACH, start), min(REACH, self.size - stop)
        try:
            texts = self.texts(start - before, stop + after)
        except Exception as error:  # for the loop that embeds: one job's defect is its own
            if not isinstance(error, RAGError):
                log.exception("the chunks of %s cannot be read back", self.file_id)
            return [Slice(self, start, stop, (), error=error)]
        if len(texts) < before + stop - start + after:  # removed from the catalog since
            self.ended = True
            return []
        around = (texts[:before], texts[before + stop - start :])
        return [Slice(self, start, stop, texts[before : before + stop - start], around)]


@dataclass(eq=False, slots=True)
class Slice:
    """Consecutive chunks of a job, with their vectors (float32, a row each) once embedded.

    `around` are the texts of the chunks before and after them, which the word index reads too.
    """

    job: Job
    start: int
    stop: int
    texts: Sequence[str]
    around: tuple[Sequence[str], Sequence[str]] = ((), ())
    vectors: Vectors | None = None
    error: Exception | None = field(default=None)

    @property
    def ids(self) -> list[str]:
        """Chunk ids."""
        return [chunk_id(self.job.file_id, number) for number in range(self.start, self.stop)]

    @property
    def is_last(self) -> bool:
        """Whether the job is whole with it."""
        return self.stop >= self.job.size


class Jobs:
    """New files under way, from before one is read until it is visible or has failed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Key, Job] = {}

    def open(self, key: Key) -> Job | None:
        """Begin with a file; None, and it is looked at again later, while it is under way."""
        with self._lock:
            known = self._open.get(key)
            if known is not None:
                known.again = True
                return None
            return self._open.setdefault(key, Job(*key))

    def close(self, job: Job) -> bool:
        """The job is over; whether the file must be looked at again."""
        job.ended = True
        with self._lock:
            if self._open.get(job.key) is job:  # it may have begun again already
                del self._open[job.key]
        if job.chunks is not None:
            job.chunks.discard()
        return job.again

    def outdate(self, keys: Collection[Key]) -> None:
        """What was written for these files is gone: their jobs begin again, if need be."""
        self._outdate(lambda job: job.key in keys)

    def outdate_others(self, store_id: str, collection: str) -> None:
        """The store serves this collection now: jobs that go to another one begin again."""
        self._outdate(lambda job: job.store_id == store_id and job.collection != collection)

    def outdate_stores(self, store_ids: Collection[str]) -> None:
        """What was written for files of these stores may be gone: their jobs begin again."""
        self._outdate(lambda job: job.store_id in store_ids)

    def _outdate(self, concerned: Callable[[Job], bool]) -> None:
        with self._lock:
            for job in filter(concerned, self._open.values()):
                job.ended = job.again = True

    def ended(self) -> list[Job]:
        """Those that are to be closed."""
        with self._lock:
            return [job for job in self._open.values() if job.ended]

    def __len__(self) -> int:
        return len(self._open)

    @property
    def on_disk(self) -> int:
        """Files whose chunks wait on disk."""
        with self._lock:
            return sum(job.chunks is not None and job.chunks.on_disk for job in self._open.values())
