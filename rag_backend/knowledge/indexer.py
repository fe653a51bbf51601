"""The write path: from an attached file to visible chunks, and out again.

A job is a store file that is `in_progress`. Readers take jobs from a queue and hand chunks to one
writer, the only one who touches Chroma and tantivy. The writer takes whatever is ready, embeds it
together, writes vectors and postings, and then makes each file visible in one catalog transaction
(`Catalog.complete`). Whatever happens before that transaction is invisible and is done again after
a restart; what it retires is garbage that the writer removes afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ingest.document import Chunk
from ingest.errors import UnreadableFile
from rag_backend.errors import NotFound, RAGError, StartError, StorageAway
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.calibrator import Calibrator
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.encoder import Encoder, EncoderLoader
from rag_backend.knowledge.finishing import finished
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import Store, StoreFile, chunk_id
from rag_backend.knowledge.reading import ReadingPool
from rag_backend.knowledge.sweeping import Sweeper
from rag_backend.knowledge.vectors import VectorIndex

_BATCH_CHUNKS = 512
"""The writer stops collecting files once it has so many chunks: bounds memory and latency."""
_EMBED_CHUNKS = 256
"""Chunks embedded in one go; `stop` waits for at most so many."""
_RETRY_SECONDS = 60
"""After this, a job is tried again whose failure could not even be recorded."""
_AWAY_SECONDS = 5
"""After this, a job is tried again that met a database server which did not answer."""
_WAITING_FILES = 64
"""Files that have been read and wait for the writer."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file that has been read, waiting for the writer."""

    store_id: str
    file_id: str
    chunks: list[Chunk]


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A store whose derived data are to be made anew from the catalog."""

    store_id: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """Something became garbage."""


Work = Prepared | Rebuild | Sweep
Entry = tuple[str, str, str]
"""(chunk id, file id, text to embed and index)."""


class Indexer:
    """Owns the jobs and the derived data of every store."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: Blobs,
        vectors: VectorIndex,
        lexical: LexicalIndex,
        encoder: EncoderLoader,
        reading: ReadingPool,
        readers: int,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._vectors = vectors
        self._lexical = lexical
        self._sweeper = Sweeper(catalog, blobs, vectors, lexical)
        self.calibrator = Calibrator(catalog, encoder)
        self._encoder = encoder
        self._reading = reading
        self._readers = readers
        self._jobs: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._work: asyncio.Queue[Work] = asyncio.Queue()
        self._room = asyncio.Semaphore(_WAITING_FILES)
        self._unfinished = 0
        self._changed: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Resume what an earlier process left, then work until `stop`."""
        await self._recover()
        loops: list[Coroutine[Any, Any, None]] = [self._read_files() for _ in range(self._readers)]
        loops += [self._write(), self.calibrator.run()]
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def stop(self) -> None:
        """Stop at once; unfinished jobs are resumed at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._reading.close)

    def submit(self, file: StoreFile) -> None:
        """Index a file that was just attached; returns at once. Others' jobs are left to them."""
        if file.status == "in_progress" and self._catalog.is_mine(file):
            self._enqueue(file.store_id, file.file_id)

    def _enqueue(self, store_id: str, file_id: str) -> None:
        self._unfinished += 1
        self._jobs.put_nowait((store_id, file_id))

    def sweep(self) -> None:
        """Remove, soon, what the catalog has retired."""
        self._work.put_nowait(Sweep())

    async def rebuild(self, store: Store) -> None:
        """Make a store's vectors and postings anew, soon; the old ones serve until then."""
        begun = await asyncio.to_thread(self._catalog.begin_rebuild, store.id)
        if begun.rebuilder == self._catalog.owner:
            self.resume_rebuild(store.id)

    def resume_rebuild(self, store_id: str) -> None:
        """Rebuild a store, soon, that is marked so and this backend's to rebuild."""
        self._work.put_nowait(Rebuild(store_id))

    @property
    def pending(self) -> int:
        """Files that are not read, or read and not written."""
        return self._unfinished

    async def _recover(self) -> None:
        """Jobs back into the queue; what a crash left behind away."""
        await finished(self._sweeper.collect)  # first: what was deleted must not be set aside
        known = await asyncio.to_thread(self._catalog.list_files)
        await asyncio.to_thread(self._blobs.set_aside_unknown, {file.id for file in known})
        unfinished = await asyncio.to_thread(self._catalog.claim_jobs, own=True)
        await asyncio.to_thread(self._clear, unfinished)
        for file in unfinished:
            self.submit(file)
        for store in await asyncio.to_thread(self._catalog.claim_rebuilds, own=True):
            self.resume_rebuild(store.id)
        for store in await asyncio.to_thread(self._catalog.list_stores):
            if not store.rebuilding:
                await asyncio.to_thread(self._compare, store)
                self.calibrator.consider(store.id)

    def _clear(self, unfinished: Sequence[StoreFile]) -> None:
        for store_id, files in _by_store(unfinished).items():
            store = self._catalog.store(store_id)
            file_ids = [file.file_id for file in files]
            try:
                self._vectors.delete_files(store.collection, file_ids)
                self._lexical.replace(store.collection, file_ids, [])
            except RAGError as error:
                log.error("unfinished files of '%s' could not be cleared: %s", store.name, error)

    def _compare(self, store: Store) -> None:
        """Say so when derived data were lost, by a failing disk or an inquisitive hand."""
        try:
            found = self._vectors.count(store.collection), self._lexical.count(store.collection)
        except RAGError as error:
            log.error("%s", error)
            return
        wanted = self._catalog.count_chunks(store.id)
        if self._catalog.owner is not None:  # others are writing, or have written since
            found = min(found[0], wanted), min(found[1], wanted)
        if found != (wanted, wanted):
            log.warning(
                "vector store '%s' has %d chunks, but %d vectors and %d postings: searches miss "
                "some of it until `python -m ingest rebuild --store %s`",
                *(store.name, wanted, *found, store.name),
            )

    # Readers

    async def _read_files(self) -> None:
        try:
            encoder = await self._encoder.wait()
        except StartError as error:
            # The backend stops for the same reason: the jobs wait for the next start.
            log.error("nothing is indexed: %s", error)
            return
        while True:
            store_id, file_id = await self._jobs.get()
            try:
                prepared = await self._read_file(store_id, file_id, encoder)
            except (UnreadableFile, RAGError) as error:
                await self._fail(store_id, file_id, error)
            except Exception:
                log.exception("reading %s failed", file_id)
                await self._fail(store_id, file_id, None)
            else:
                if prepared is not None:
                    await self._room.acquire()
                    self._work.put_nowait(prepared)
                    continue
            self._unfinished -= 1
            self.sweep()

    async def _read_file(self, store_id: str, file_id: str, encoder: Encoder) -> Prepared | None:
        try:
            attached = await asyncio.to_thread(self._catalog.store_file, store_id, file_id)
            file = await asyncio.to_thread(self._catalog.file, file_id)
        except NotFound:
            return None  # deleted while it waited
        if attached.status != "in_progress" or not self._catalog.is_mine(attached):
            return None  # submitted twice, or another backend's by now
        chunks = await self._reading.read(
            await asyncio.to_thread(self._blobs.fetch, file_id),
            file.filename,
            encoder.embedding.tokenizer_file,
            encoder.embedding.max_tokens,
        )
        return Prepared(store_id, file_id, chunks)

    async def _fail(
        self,
        store_id: str,
        file_id: str,
        error: UnreadableFile | RAGError | None,
        written: bool = False,
    ) -> None:
        if isinstance(error, StorageAway):  # nothing is wrong with the file: it is tried again
            self._again_later(file_id, store_id, error, _AWAY_SECONDS)
            return
        code = error.code if isinstance(error, UnreadableFile) else "server_error"
        message = str(error) if error else "Internal error: the backend's log has the details."
        try:
            await finished(self._catalog.fail, store_id, file_id, code, message, written=written)
        except RAGError as problem:
            # A full disk, most likely: the job stays in progress until there is room again.
            away = isinstance(problem, StorageAway)
            seconds = _AWAY_SECONDS if away else _RETRY_SECONDS
            self._again_later(file_id, store_id, problem, seconds)

    def _again_later(self, file_id: str, store_id: str, problem: RAGError, seconds: int) -> None:
        again = "%s cannot be indexed now, and is tried again in %d s: %s"
        log.error(again, file_id, seconds, problem)
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, self._enqueue, store_id, file_id)

    # Writer

    async def _write(self) -> None:
        while True:
            work = await self._next_work()
            try:
                await self._do(work)
            except Exception:
                log.exception("the writer failed; it goes on")
            for item in work:
                if isinstance(item, Prepared):
                    self._unfinished -= 1
                    self._room.release()
                if not isinstance(item, Sweep):
                    self._changed.add(item.store_id)
            if not self._unfinished:  # what learning costs is not taken from ingestion
                for store_id in self._changed:
                    self.calibrator.consider(store_id)
                self._changed.clear()

    async def _do(self, work: Sequence[Work]) -> None:
        # First of all: a file that was removed and came back must lose its old postings before it
        # gets its new ones.
        await finished(self._sweeper.collect)
        for store_id in dict.fromkeys(w.store_id for w in work if isinstance(w, Rebuild)):
            await self._rebuild_or_log(store_id)
        files = [item for item in work if isinstance(item, Prepared)]
        for store_id, batch in _by_store(files).items():
            await self._index(store_id, batch)
        await finished(self._sweeper.collect)

    async def _next_work(self) -> list[Work]:
        """Everything that is ready, up to a batch."""
        work = [await self._work.get()]
        size = 0
        while size < _BATCH_CHUNKS and not self._work.empty():
            item = self._work.get_nowait()
            work.append(item)
            size += len(item.chunks) if isinstance(item, Prepared) else 0
        return work

    async def _index(self, store_id: str, batch: Sequence[Prepared]) -> None:
        error: RAGError | None = None
        try:
            await self._index_store(store_id, batch)
            return
        except RAGError as known:
            error = known
        except Exception:
            log.exception("indexing %s into %s failed", [f.file_id for f in batch], store_id)
        if error is None and len(batch) > 1:
            for file in batch:  # one by one, the others need not suffer
                await self._index(store_id, [file])
            return
        for file in batch:
            await self._fail(store_id, file.file_id, error, written=True)

    async def _index_store(self, store_id: str, batch: Sequence[Prepared]) -> None:
        encoder = await self._encoder.wait()
        try:
            store = await asyncio.to_thread(self._catalog.store, store_id)
        except NotFound:
            return  # the store was deleted
        encoder.check(store)
        # A file that was removed and came back while it was being read is here twice.
        files = {file.file_id: file for file in batch}
        entries = await asyncio.to_thread(_entries, files.values())

        def make_visible() -> None:
            self._lexical.replace(store.collection, list(files), entries)
            for file in files.values():
                self._catalog.complete(store_id, file.file_id, file.chunks, store.collection)

        if store.embedding_probe is None:
            encoder.check(await finished(self._remember_encoder, store, encoder))
        await self._embed(store.collection, encoder, entries)
        await finished(make_visible)

    def _remember_encoder(self, store: Store, encoder: Encoder) -> Store:
        return self._catalog.set_encoder(store.id, encoder.embedding.model_id, encoder.probe)

    async def _embed(self, collection: str, encoder: Encoder, entries: Sequence[Entry]) -> None:
        """Vectors of the entries, part by part, into Chroma."""

        def embed(part: Sequence[Entry]) -> None:
            ids, owners, texts = zip(*part, strict=True)
            vectors = encoder.embedding.embed(texts, "document")
            self._vectors.add(collection, ids, owners, vectors)

        for at in range(0, len(entries), _EMBED_CHUNKS):
            await finished(embed, entries[at : at + _EMBED_CHUNKS])

    async def _rebuild_or_log(self, store_id: str) -> None:
        try:
            await self._rebuild(store_id)
        except StorageAway as error:
            log.error("rebuilding %s is tried again in %d s: %s", store_id, _AWAY_SECONDS, error)
            loop = asyncio.get_running_loop()
            loop.call_later(_AWAY_SECONDS, self.resume_rebuild, store_id)
        except RAGError as error:
            log.error("rebuilding %s failed; the next start tries again: %s", store_id, error)
        except Exception:
            log.exception("rebuilding %s failed; the next start tries again", store_id)

    async def _rebuild(self, store_id: str) -> None:
        """Embed and index every completed file into the next generation, then serve that."""
        encoder = await self._encoder.wait()
        try:
            store = await asyncio.to_thread(self._catalog.store, store_id)
        except NotFound:
            return
        if not store.rebuilding or store.rebuilder != self._catalog.owner:
            return  # asked for twice, or another backend's by now
        target = store.next_collection
        await finished(self._sweeper.drop, target)  # a rebuild that did not finish
        written: dict[str, int] = {}
        while True:  # again for what other backends have changed meanwhile
            revision = (await finished(self._catalog.store, store_id)).revision
            files = await finished(self._catalog.list_store_files, store.id, "completed")
            await self._write_next_generation(store, files, written, encoder)
            model, probe = encoder.embedding.model_id, encoder.probe
            if await finished(self._catalog.swap_generation, store, model, probe, revision):
                return

    async def _write_next_generation(
        self, store: Store, files: Sequence[StoreFile], written: dict[str, int], encoder: Encoder
    ) -> None:
        """Bring the next generation to these files.

        Args:
            written: {file id: sequence} of what it holds; brought up to date.
        """
        target = store.next_collection
        wanted = {file.file_id: file.sequence for file in files}
        gone = [item for item, sequence in written.items() if wanted.get(item) != sequence]
        if gone:
            await finished(self._vectors.delete_files, target, gone)
            await finished(self._lexical.replace, target, gone, [])
        entries: list[Entry] = []
        new = [file for file in files if written.get(file.file_id) != file.sequence]
        for number, file in enumerate(new, 1):
            stored = await asyncio.to_thread(self._catalog.file_chunks, store.id, file.file_id)
            entries += [(chunk.id, chunk.file_id, chunk.indexed_text) for chunk in stored]
            if len(entries) >= _BATCH_CHUNKS or number == len(new):
                await self._embed(target, encoder, entries)
                await finished(self._lexical.replace, target, [], entries)
                entries = []
        written.clear()
        written.update(wanted)


def _entries(files: Iterable[Prepared]) -> list[Entry]:
    return [
        (chunk_id(file.file_id, number), file.file_id, chunk.indexed_text)
        for file in files
        for number, chunk in enumerate(file.chunks)
    ]


class _OfStore(Protocol):
    @property
    def store_id(self) -> str: ...


S = TypeVar("S", bound=_OfStore)


def _by_store(items: Iterable[S]) -> dict[str, list[S]]:
    grouped: dict[str, list[S]] = {}
    for item in items:
        grouped.setdefault(item.store_id, []).append(item)
    return grouped
