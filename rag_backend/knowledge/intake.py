"""New files are read and chunked, short ones without waiting for long ones."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from ingest.chunking import StaticSize
from ingest.errors import UnreadableFile
from rag_backend.errors import NotFound, RAGError, StartError
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.encoders import Encoders
from rag_backend.knowledge.finishing import Threads
from rag_backend.knowledge.jobs import Job, Jobs, Key
from rag_backend.knowledge.models import FileRecord, Store, StoreFile
from rag_backend.knowledge.reading import ReadingPool
from rag_backend.knowledge.refilling import Refill

LARGE = 2**20
"""Bytes from which a file does not take the last free reader: it may be read for minutes."""
WAITING_CHUNKS = 2048
WAITING_CHARACTERS = 2**24
"""What has been read and waits in memory; readers pause above either."""
WAITING_ON_DISK = 8
"""Long files that have been read and wait on disk; no other large one is read above that."""

log = logging.getLogger(__name__)


class Room:
    """How much of what has been read may wait in memory."""

    def __init__(self) -> None:
        self._held: dict[Job, int] = {}
        self._chunks = self._characters = 0
        self._freed = asyncio.Event()

    async def enter(self, job: Job) -> None:
        """Wait until there is room; then the job takes its part of it, however large."""
        chunks = job.chunks
        if chunks is None or chunks.on_disk:
            return
        while self._chunks >= WAITING_CHUNKS or self._characters >= WAITING_CHARACTERS:
            self._freed.clear()
            await self._freed.wait()
        self._held[job] = size = sum(len(chunk.text) for chunk in chunks)
        self._chunks += job.size
        self._characters += size

    def leave(self, job: Job) -> None:
        """The job is over."""
        if job in self._held:
            self._chunks -= job.size
            self._characters -= self._held.pop(job)
            self._freed.set()


class Receiver(Protocol):
    """Where files go that have been read, or cannot be."""

    def receive(self, job: Job) -> None:
        """It waits to be embedded."""
        ...

    async def reject(self, job: Job, error: Exception | None) -> None:
        """It cannot be indexed; None for a defect, which was logged."""
        ...

    def drop(self, job: Job) -> None:
        """There is nothing to do for it."""
        ...

    async def lose(self, job: Job) -> None:
        """An unexpected error, which was logged, stopped whoever had it."""
        ...


class Intake:
    """Files that wait to be read, and their readers."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: Blobs,
        reading: ReadingPool,
        encoders: Encoders,
        jobs: Jobs,
        threads: Threads,
        mirror_of: Callable[[Store], Refill | None],
        spent: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """`mirror_of` names the refill that a new file of a store is to be written to as well.

        `spent` is told the seconds that reading a file took.
        """
        self._spent = spent
        self._catalog = catalog
        self._blobs = blobs
        self._reading = reading
        self._encoders = encoders
        self._jobs = jobs
        self._threads = threads
        self._mirror_of = mirror_of
        self.room = Room()
        self._waiting: OrderedDict[Key, None] = OrderedDict()
        self._large: deque[Key] = deque()
        self._reading_large = 0
        self._news = asyncio.Event()

    def submit(self, key: Key) -> None:
        """Read a file, soon; one that waits already has its turn all the same."""
        self._waiting[key] = None
        self._news.set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._large)

    def look_again(self) -> None:
        """A job is over: there may be room for a large file."""
        self._news.set()

    async def run(self, receiver: Receiver, readers: int) -> None:
        """Read until cancelled; returns at once when there is no encoder to read for."""
        try:
            await self._encoders.present.wait()
        except StartError as error:
            # The backend stops for the same reason: the jobs wait for the next start.
            log.error("nothing is indexed: %s", error)
            return
        most_large = max(1, readers - 1)
        await asyncio.gather(*(self._read(receiver, most_large) for _ in range(readers)))

    async def _read(self, receiver: Receiver, most_large: int) -> None:
        while True:
            key, large = await self._next(most_large)
            self._reading_large += large
            try:
                await self._read_one(key, large, most_large, receiver)
            finally:
                self._reading_large -= large
                self._news.set()

    async def _next(self, most_large: int) -> tuple[Key, bool]:
        """A file to be read, and whether it is known to be large."""
        while True:
            few = self._reading_large < most_large and self._jobs.on_disk < WAITING_ON_DISK
            if self._large and few:
                return self._large.popleft(), True
            if self._waiting:
                return self._waiting.popitem(last=False)[0], False
            self._news.clear()
            await self._news.wait()

    async def _read_one(self, key: Key, large: bool, most_large: int, receiver: Receiver) -> None:
        job = self._jobs.open(key)
        if job is None:
            return
        try:
            await self._hand_over(job, large, most_large, receiver)
        except Exception:
            log.exception("reading %s was interrupted; it is tried again", key[1])
            await receiver.lose(job)

    async def _hand_over(self, job: Job, large: bool, most_large: int, receiver: Receiver) -> None:
        """The job, filled, goes to the receiver, or nowhere."""
        key = job.key
        try:
            found = await self._threads.run(self._look_up, key)
            if found is None:
                receiver.drop(job)
                return
            attached, file, store = found
            if file.bytes >= LARGE and not large:
                receiver.drop(job)
                self._large.append(key)
                return
            await self._fill(job, attached, file, store)
        except (UnreadableFile, RAGError) as error:
            await receiver.reject(job, error)
        except Exception:
            log.exception("reading %s failed", key[1])
            await receiver.reject(job, None)
        else:
            await self.room.enter(job)
            receiver.receive(job)

    def _look_up(self, key: Key) -> tuple[StoreFile, FileRecord, Store] | None:
        store_id, file_id = key
        try:
            attached = self._catalog.store_file(store_id, file_id)
            if attached.status != "in_progress" or not self._catalog.is_mine(attached):
                return None  # submitted twice, cancelled, or another backend's by now
            return attached, self._catalog.file(file_id), self._catalog.store(store_id)
        except NotFound:
            return None  # deleted while it waited

    async def _fill(self, job: Job, attached: StoreFile, file: FileRecord, store: Store) -> None:
        present = await self._encoders.present.wait()
        fetched = await self._threads.run(self._blobs.fetch, file.id)
        began = time.monotonic()
        chunks = await self._reading.read(
            fetched,
            file.filename,
            present.embedding.tokenizer_file,
            present.embedding.max_tokens,
            StaticSize(**attached.chunking) if attached.chunking else None,
        )
        self._spent(time.monotonic() - began)
        job.chunks, job.size = chunks, len(chunks)
        job.texts = lambda start, stop: [c.indexed_text for c in chunks.part(start, stop)]
        job.encoder = await self._encoders.for_writing(store)
        job.collection = store.collection
        job.mirror = self._mirror_of(store) if job.encoder is present else None
