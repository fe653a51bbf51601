"""The knowledge of the house as one object: files, vector stores, search."""

from __future__ import annotations

import asyncio
import contextlib
import time
import unicodedata
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from rag_backend.errors import Conflict, RAGError, StorageAway, StorageLocked
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.expiring import Expirer
from rag_backend.knowledge.following import Following
from rag_backend.knowledge.indexer import Indexer
from rag_backend.knowledge.models import (
    Attachment,
    Batch,
    FileRecord,
    Reach,
    Store,
    StoredChunk,
    StoreFile,
    new_id,
)
from rag_backend.knowledge.passages import Hit, Passage
from rag_backend.knowledge.retriever import Retriever

DEFAULT_STORE = "default"
_LONGEST_NAME = 255


class Library:
    """What the API and the answering pipeline may do with documents."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: Blobs,
        indexer: Indexer,
        retriever: Retriever,
        following: Following | None = None,
    ) -> None:
        """`following` where other backends share the catalog."""
        self.catalog = catalog
        self.blobs = blobs
        self.indexer = indexer
        self.retriever = retriever
        self.expirer = Expirer(catalog, indexer.sweep)
        self.following = following
        # As they were read at the catalog's mark: every question begins with these.
        self._mark: int | None = None
        self._stores: dict[str, Store] = {}
        self._searched: float | None = None
        self._empty: dict[str, bool] = {}

    async def start(self) -> None:
        """Make sure of the default store, and resume unfinished jobs.

        Among other backends this one may be searched before its word index is whole (`arriving`).
        """
        with contextlib.suppress(Conflict):
            await asyncio.to_thread(self.catalog.create_store, DEFAULT_STORE, {})
        if self.following is not None:
            await self.following.arrive()
        await self.expirer.start()
        if self.following is None:
            await self.indexer.start()
        else:
            self.following.start()

    def check_vectors(self) -> None:
        """Raise StorageBroken when Chroma does not answer. Synchronous."""
        self.retriever.check_vectors()

    def check_words(self, store: Store) -> None:
        """Raise StorageBroken when the word index cannot be opened. Synchronous."""
        self.retriever.check_words(store)

    def last_search(self) -> float | None:
        """When a search last worked, by `time.monotonic`: catalog, vectors, words, encoder."""
        return self._searched

    async def stop(self) -> None:
        """Stop the indexer, and let go of every file in DATA_DIR."""
        self.indexer.halt()  # before anything that its jobs need is closed
        await self.expirer.stop()
        if self.following is not None:
            await self.following.stop()
        await self.indexer.stop()
        if self.following is not None:
            await self.following.leave()
        await asyncio.to_thread(self.retriever.close)
        await asyncio.to_thread(self.catalog.close)

    async def upload(
        self,
        filename: str,
        purpose: str,
        parts: AsyncIterator[bytes],
        expires_after: int | None = None,
        uploaded_by: str | None = None,
    ) -> FileRecord:
        """Store bytes as a file, for so many seconds if given; raises what `Blobs.write` raises."""
        file_id = new_id("file-")
        written = await self.blobs.write(file_id, parts)
        now = int(time.time())
        record = FileRecord(
            id=file_id,
            filename=safe_filename(filename),
            bytes=written.bytes,
            sha256=written.sha256,
            purpose=purpose,
            created_at=now,
            expires_at=None if expires_after is None else now + expires_after,
            uploaded_by=uploaded_by,
        )
        try:
            await asyncio.to_thread(self.catalog.add_file, record)
        except RAGError as error:
            # Not when the database is away: it may have been recorded all the same, and if not,
            # the bytes go by themselves. Nor when cancelled: the thread may still record the file,
            # and bytes that nobody recorded go at the next start.
            if isinstance(error, StorageLocked) or not isinstance(error, StorageAway):
                await asyncio.to_thread(self.blobs.delete, file_id)
            raise
        return record

    async def delete_file(self, file_id: str) -> None:
        """Delete a file everywhere: no search returns it from now on."""
        await asyncio.to_thread(self.catalog.delete_file, file_id)
        self.indexer.sweep()

    async def attach(
        self,
        store: Store,
        file_id: str,
        attributes: Mapping[str, Any] | None,
        chunking: Mapping[str, int] | None = None,
    ) -> StoreFile:
        """Put a file into a store and index it in the background; see `Attachment`.

        A file with the same identity (its attribute `path`, else its name) is replaced, once the
        new one is whole. Raises NotFound or Conflict.
        """
        [attached] = await self.attach_all(store, [Attachment(file_id, attributes, chunking)])
        return attached

    async def attach_all(self, store: Store, wanted: Sequence[Attachment]) -> list[StoreFile]:
        """Put files into a store, all or none, in one transaction; see `attach`."""
        _check_active(store)
        attached = await asyncio.to_thread(self.catalog.attach_all, store.id, wanted)
        for file in attached:
            self.indexer.submit(file)
        return attached

    async def attach_batch(self, store: Store, wanted: Sequence[Attachment]) -> Batch:
        """`attach_all`, as a batch that can be followed and cancelled."""
        _check_active(store)
        batch, attached = await asyncio.to_thread(self.catalog.add_batch, store.id, wanted)
        for file in attached:
            self.indexer.submit(file)
        return batch

    async def cancel_batch(self, store: Store, batch_id: str) -> Batch:
        """Cancel what of a batch is not indexed yet; raises NotFound."""
        batch = await asyncio.to_thread(self.catalog.cancel_batch, store.id, batch_id)
        self.indexer.sweep()
        return batch

    async def detach(self, store: Store, file_id: str) -> None:
        """Take a file out of a store."""
        await asyncio.to_thread(self.catalog.detach, store.id, file_id)
        self.indexer.sweep()

    async def create_store(
        self,
        name: str,
        metadata: Mapping[str, str],
        wanted: Sequence[Attachment] = (),
        description: str | None = None,
        expires_after_days: int | None = None,
    ) -> Store:
        """A new store with these files in it, or none at all; raises Conflict or NotFound."""
        store = await asyncio.to_thread(
            self.catalog.create_store, name, metadata, description, expires_after_days
        )
        try:
            await self.attach_all(store, wanted)
        except RAGError:
            await asyncio.to_thread(self.catalog.delete_store, store.id)
            self.indexer.sweep()
            raise
        return await self.store(store.id)

    async def set_expiry(self, store: Store, days: int | None) -> None:
        """Let a store expire after days without use, or never; one that has expired comes back."""
        for file in await asyncio.to_thread(self.catalog.set_expiry, store.id, days):
            self.indexer.submit(file)

    async def store(self, id_or_name: str) -> Store:
        """A store by id or name; raises NotFound."""
        mark = self.catalog.mark()
        if mark is None:
            return await asyncio.to_thread(self.catalog.store, id_or_name)
        self._remember_from(mark)
        store = self._stores.get(id_or_name)
        if store is None:
            store = await asyncio.to_thread(self.catalog.store, id_or_name)
            if mark == self._mark:
                self._stores[id_or_name] = store
        return store

    async def delete_store(self, store: Store) -> None:
        """Delete a store; the default one comes back empty."""
        await asyncio.to_thread(self.catalog.delete_store, store.id)
        self.indexer.sweep()
        if store.name == DEFAULT_STORE:
            with contextlib.suppress(Conflict):
                await asyncio.to_thread(self.catalog.create_store, DEFAULT_STORE, {})

    async def curated(self, store: Store, question: str) -> StoredChunk | None:
        """The stored answer to exactly this question."""
        self.use(store)
        return await asyncio.to_thread(self.catalog.curated, store.id, question)

    def is_complete(self, store: Store) -> bool:
        """Whether a search finds all that the store has; not where others' files are on the way, or
        what was lost is made anew."""
        followed = self.following is None or self.following.has_followed(store)
        return followed and self.indexer.is_whole(store)

    @property
    def arriving(self) -> str | None:
        """Why searches find less than they will since the start, in a sentence."""
        return None if self.following is None else self.following.arriving

    @property
    def searches_by_words(self) -> int:
        """How many searches have gone by words alone because the encoder was late."""
        return self.retriever.queries.unanswered

    async def is_empty(self, store: Store) -> bool:
        """Whether nothing in the store can be found."""
        mark = self.catalog.mark()
        self._remember_from(mark)
        empty = self._empty.get(store.id)
        if empty is None:
            counts, _ = await asyncio.to_thread(self.catalog.file_counts, store.id)
            empty = not counts.get("completed")
            if mark is not None and mark == self._mark:
                self._empty[store.id] = empty
        return empty

    async def search(
        self,
        store: Store,
        query: str,
        k: int,
        filters: Mapping[str, Any] | None = None,
        *,
        rerank: bool = True,
    ) -> list[Hit]:
        """See Retriever.search."""
        self.use(store)
        hits = await self.retriever.search(store, query, k, filters, rerank=rerank)
        if hits:
            self._searched = time.monotonic()
        return hits

    async def passages(self, store: Store, hits: Sequence[Hit], k: int) -> list[Passage]:
        """See Retriever.passages."""
        return await self.retriever.passages(store, hits, k)

    def use(self, store: Store) -> None:
        """Note that a store is asked, which keeps it from expiring; raises Conflict if it has."""
        _check_active(store)
        self.expirer.used(store.id)

    async def term_weights(self, store: Store, query: str) -> dict[str, float]:
        """See Retriever.term_weights."""
        return await self.retriever.term_weights(store, query)

    async def chunks(self, store: Store, file_id: str) -> list[StoredChunk]:
        """A file's chunks; raises NotFound, or Conflict while it is not completed."""
        attached = await asyncio.to_thread(self.catalog.store_file, store.id, file_id)
        if attached.status != "completed":
            raise Conflict(f"File {file_id} is {attached.status}: it has no content yet.")
        return await asyncio.to_thread(self.catalog.file_chunks, store.id, file_id)

    async def check_reach(self, wanted: Sequence[Attachment], reach: Reach | None) -> None:
        """Raise NotFound where one of these files is out of reach: nobody may attach it."""
        if reach is not None and wanted:
            ids = [item.file_id for item in wanted]
            await asyncio.to_thread(self.catalog.check_reach, ids, reach)

    async def file(self, file_id: str, reach: Reach | None = None) -> FileRecord:
        """A file whose bytes are there; raises NotFound."""
        record = await asyncio.to_thread(self.catalog.file, file_id, reach)
        await asyncio.to_thread(self.blobs.fetch, file_id)
        return record

    def _remember_from(self, mark: int | None) -> None:
        """Forget what was read before this mark of the catalog."""
        if mark != self._mark:
            self._mark, self._stores, self._empty = mark, {}, {}


def _check_active(store: Store) -> None:
    if store.expired_at is not None:
        raise Conflict(
            f"Vector store '{store.name}' has expired, since nobody used it: give it another "
            "`expires_after` (or null), and its files are indexed again.",
            code="vector_store_expired",
        )


def safe_filename(name: str) -> str:
    """A client's file name as a plain label: NFC, no directories, no control characters.

    At most 255 characters; the suffix survives, since it helps to recognise the format. The name
    is never used as a path here, but clients save files under it.
    """
    composed = unicodedata.normalize("NFC", name).replace("\\", "/")
    label = "".join(c for c in PurePosixPath(composed).name if unicodedata.category(c)[0] != "C")
    label = label.strip().lstrip(".") or "unnamed"
    if len(label) <= _LONGEST_NAME:
        return label
    suffix = PurePosixPath(label).suffix[:16]
    return label[: _LONGEST_NAME - len(suffix)] + suffix
