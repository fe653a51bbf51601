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
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ingest.document import Chunk
from ingest.errors import UnreadableFile
from rag_backend.errors import NotFound, RAGError
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.encoder import Encoder, EncoderLoader
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import Garbage, Store, StoredChunk, StoreFile, chunk_id
from rag_backend.knowledge.reading import ReadingPool
from rag_backend.knowledge.vectors import VectorIndex

_BATCH_CHUNKS = 512
"""The writer stops collecting files once it has so many chunks: bounds memory and latency."""

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
        self._encoder = encoder
        self._reading = reading
        self._readers = readers
        self._jobs: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._work: asyncio.Queue[Work] = asyncio.Queue(maxsize=64)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Resume what an earlier process left, then work until `stop`."""
        await self._recover()
        loops: list[Coroutine[Any, Any, None]] = [self._read_files() for _ in range(self._readers)]
        self._tasks = [asyncio.create_task(loop) for loop in [*loops, self._write()]]

    async def stop(self) -> None:
        """Stop at once; unfinished jobs are resumed at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._reading.close)

    def submit(self, file: StoreFile) -> None:
        """Index a file that was just attached; returns at once."""
        if file.status == "in_progress":
            self._jobs.put_nowait((file.store_id, file.file_id))

    async def sweep(self) -> None:
        """Remove, soon, what the catalog has retired."""
        await self._work.put(Sweep())

    async def rebuild(self, store: Store) -> None:
        """Make a store's vectors and postings anew, soon; the old ones serve until then."""
        await asyncio.to_thread(self._catalog.update_store, store.id, rebuilding=True)
        await self._work.put(Rebuild(store.id))

    @property
    def pending(self) -> int:
        """Files waiting to be read, and batches waiting to be written."""
        return self._jobs.qsize() + self._work.qsize()

    async def _recover(self) -> None:
        known = await asyncio.to_thread(self._catalog.list_files)
        await asyncio.to_thread(self._blobs.delete_unknown, {file.id for file in known})
        unfinished = await asyncio.to_thread(self._catalog.list_store_files, None, "in_progress")
        for store_id, group in groupby(sorted(unfinished, key=_by_store), key=_by_store):
            store = await asyncio.to_thread(self._catalog.store, store_id)
            file_ids = [file.file_id for file in group]
            try:
                await asyncio.to_thread(self._vectors.delete_files, store.collection, file_ids)
            except RAGError as error:
                log.error("unfinished files of '%s' could not be cleared: %s", store.name, error)
        for file in unfinished:
            self.submit(file)
        for store in await asyncio.to_thread(self._catalog.list_stores):
            if store.rebuilding:
                self._work.put_nowait(Rebuild(store.id))

    # Readers

    async def _read_files(self) -> None:
        while True:
            store_id, file_id = await self._jobs.get()
            try:
                await self._read_file(store_id, file_id)
            except (UnreadableFile, RAGError) as error:
                await self._fail(store_id, file_id, error)
            except Exception:
                log.exception("reading %s failed", file_id)
                await self._fail(store_id, file_id, None)

    async def _read_file(self, store_id: str, file_id: str) -> None:
        encoder = await self._encoder.wait()
        try:
            file = await asyncio.to_thread(self._catalog.file, file_id)
        except NotFound:
            return  # deleted while it waited
        chunks = await self._reading.read(
            self._blobs.path(file_id),
            file.filename,
            encoder.embedding.tokenizer_file,
            encoder.embedding.max_tokens,
        )
        await self._work.put(Prepared(store_id, file_id, chunks))

    async def _fail(
        self, store_id: str, file_id: str, error: UnreadableFile | RAGError | None
    ) -> None:
        code = error.code if isinstance(error, UnreadableFile) else "server_error"
        message = str(error) if error else "Internal error: the backend's log has the details."
        try:
            await asyncio.to_thread(self._catalog.fail, store_id, file_id, code, message)
        except RAGError as problem:
            # The job stays in progress, and is tried again at the next start.
            log.error("the failure of %s could not be recorded: %s", file_id, problem)

    # Writer

    async def _write(self) -> None:
        while True:
            work = await self._next_work()
            try:
                # Before anything else: a file that was removed and came back must lose its old
                # postings before it gets its new ones.
                await self._collect_garbage()
                for item in work:
                    if isinstance(item, Rebuild):
                        await self._rebuild(item.store_id)
                files = [item for item in work if isinstance(item, Prepared)]
                await self._index(files)
                await self._collect_garbage()
            except RAGError as error:
                log.error("%s", error)
            except Exception:
                log.exception("the writer failed; it goes on")

    async def _next_work(self) -> list[Work]:
        """Everything that is ready, up to a batch."""
        work = [await self._work.get()]
        size = 0
        while size < _BATCH_CHUNKS and not self._work.empty():
            item = self._work.get_nowait()
            work.append(item)
            size += len(item.chunks) if isinstance(item, Prepared) else 0
        return work

    async def _index(self, files: Sequence[Prepared]) -> None:
        for store_id, group in groupby(sorted(files, key=_by_store), key=_by_store):
            batch = list(group)
            try:
                await self._index_store(store_id, batch)
            except Exception as error:
                known = error if isinstance(error, RAGError) else None
                if known is None:
                    log.exception("indexing into %s failed", store_id)
                for file in batch:
                    await self._fail(store_id, file.file_id, known)

    async def _index_store(self, store_id: str, batch: Sequence[Prepared]) -> None:
        encoder = await self._encoder.wait()
        try:
            store = await asyncio.to_thread(self._catalog.store, store_id)
        except NotFound:
            return  # the store was deleted
        encoder.check(store)
        texts = [chunk.indexed_text for file in batch for chunk in file.chunks]
        vectors = await asyncio.to_thread(encoder.embedding.embed, texts, "document")
        ids = [chunk_id(file.file_id, i) for file in batch for i in range(len(file.chunks))]
        owners = [file.file_id for file in batch for _ in file.chunks]

        def persist() -> None:
            if store.embedding_probe is None:
                self._remember_encoder(store, encoder)
            self._vectors.add(store.collection, ids, owners, vectors)
            gone = [file.file_id for file in batch]
            self._lexical.replace(store.collection, gone, zip(ids, owners, texts, strict=True))
            for file in batch:
                self._catalog.complete(store_id, file.file_id, file.chunks)

        await asyncio.to_thread(persist)

    def _remember_encoder(self, store: Store, encoder: Encoder) -> None:
        self._catalog.update_store(
            store.id, embedding_model=encoder.embedding.model_id, embedding_probe=encoder.probe
        )

    async def _rebuild(self, store_id: str) -> None:
        """Embed and index every completed file into the next generation, then serve that."""
        encoder = await self._encoder.wait()
        try:
            store = await asyncio.to_thread(self._catalog.store, store_id)
        except NotFound:
            return
        target = f"{store.id}-{store.generation + 1}"
        await asyncio.to_thread(self._drop, target)  # a rebuild that did not finish
        for file in await asyncio.to_thread(self._catalog.list_store_files, store.id, "completed"):
            stored = await asyncio.to_thread(self._catalog.file_chunks, store.id, file.file_id)
            await asyncio.to_thread(self._copy, target, encoder, stored)
        await asyncio.to_thread(
            self._catalog.swap_generation, store, encoder.embedding.model_id, encoder.probe
        )

    def _copy(self, target: str, encoder: Encoder, stored: Sequence[StoredChunk]) -> None:
        texts = [chunk.indexed_text for chunk in stored]
        ids, owners = [chunk.id for chunk in stored], [chunk.file_id for chunk in stored]
        self._vectors.add(target, ids, owners, encoder.embedding.embed(texts, "document"))
        self._lexical.replace(target, [], zip(ids, owners, texts, strict=True))

    # Garbage

    async def _collect_garbage(self) -> None:
        gone = await asyncio.to_thread(self._catalog.list_garbage)
        if gone:
            await asyncio.to_thread(self._remove, gone)
            ids = [item.id for item in gone]
            await asyncio.to_thread(self._catalog.forget_garbage, ids)

    def _remove(self, gone: Sequence[Garbage]) -> None:
        generations = {store.id: store.collection for store in self._catalog.list_stores()}
        postings: dict[str, list[str]] = {}
        for item in gone:
            if item.kind == "collection" and item.collection:
                self._drop(item.collection)
            elif item.kind == "bytes" and item.file_id:
                self._blobs.delete(item.file_id)
            elif item.kind == "postings" and item.file_id and item.store_id in generations:
                postings.setdefault(generations[item.store_id], []).append(item.file_id)
        for collection, file_ids in postings.items():
            self._vectors.delete_files(collection, file_ids)
            self._lexical.replace(collection, file_ids, [])

    def _drop(self, collection: str) -> None:
        self._vectors.drop(collection)
        self._lexical.drop(collection)


def _by_store(item: StoreFile | Prepared) -> str:
    return item.store_id
