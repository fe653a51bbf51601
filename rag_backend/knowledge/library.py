"""The knowledge of the house as one object: files, vector stores, search."""

from __future__ import annotations

import asyncio
import contextlib
import time
import unicodedata
from collections.abc import AsyncIterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from rag_backend.errors import Conflict, RAGError, StorageAway
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.following import Following
from rag_backend.knowledge.indexer import Indexer
from rag_backend.knowledge.models import FileRecord, Store, StoredChunk, StoreFile, new_id
from rag_backend.knowledge.retriever import Hit, Retriever
from rag_backend.text import nfc

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
        self.following = following

    async def start(self) -> None:
        """Make sure of the default store, and resume unfinished jobs."""
        with contextlib.suppress(Conflict):
            await asyncio.to_thread(self.catalog.create_store, DEFAULT_STORE, {})
        if self.following is not None:
            await self.following.arrive()
        await self.indexer.start()
        if self.following is not None:
            self.following.start()

    def check_vectors(self) -> None:
        """Raise StorageBroken when Chroma does not answer. Synchronous."""
        self.retriever.check_vectors()

    async def stop(self) -> None:
        """Stop the indexer, and let go of every file in DATA_DIR."""
        if self.following is not None:
            await self.following.stop()
        await self.indexer.stop()
        if self.following is not None:
            await self.following.leave()
        await asyncio.to_thread(self.retriever.close)
        await asyncio.to_thread(self.catalog.close)

    async def upload(self, filename: str, purpose: str, parts: AsyncIterator[bytes]) -> FileRecord:
        """Store bytes as a file; raises what `Blobs.write` raises."""
        file_id = new_id("file-")
        written = await self.blobs.write(file_id, parts)
        record = FileRecord(
            id=file_id,
            filename=safe_filename(filename),
            bytes=written.bytes,
            sha256=written.sha256,
            purpose=purpose,
            created_at=int(time.time()),
        )
        try:
            await asyncio.to_thread(self.catalog.add_file, record)
        except StorageAway:
            raise  # it may have been recorded all the same; if not, the bytes go by themselves
        except RAGError:
            # Not when cancelled: the thread may still record the file, and bytes that nobody
            # recorded go at the next start.
            await asyncio.to_thread(self.blobs.delete, file_id)
            raise
        return record

    async def delete_file(self, file_id: str) -> None:
        """Delete a file everywhere: no search returns it from now on."""
        await asyncio.to_thread(self.catalog.delete_file, file_id)
        self.indexer.sweep()

    async def attach(self, store: Store, file_id: str, attributes: Mapping[str, Any]) -> StoreFile:
        """Put a file into a store and index it in the background.

        A file with the same identity (its attribute `path`, else its name) is replaced, once the
        new one is whole.
        """
        file = await asyncio.to_thread(self.catalog.file, file_id)
        identity = nfc(str(attributes.get("path") or file.filename))
        attached = await asyncio.to_thread(
            self.catalog.attach, store.id, file_id, attributes, identity
        )
        self.indexer.submit(attached)
        return attached

    async def detach(self, store: Store, file_id: str) -> None:
        """Take a file out of a store."""
        await asyncio.to_thread(self.catalog.detach, store.id, file_id)
        self.indexer.sweep()

    async def store(self, id_or_name: str) -> Store:
        """A store by id or name; raises NotFound."""
        return await asyncio.to_thread(self.catalog.store, id_or_name)

    async def delete_store(self, store: Store) -> None:
        """Delete a store; the default one comes back empty."""
        await asyncio.to_thread(self.catalog.delete_store, store.id)
        self.indexer.sweep()
        if store.name == DEFAULT_STORE:
            with contextlib.suppress(Conflict):
                await asyncio.to_thread(self.catalog.create_store, DEFAULT_STORE, {})

    async def curated(self, store: Store, question: str) -> StoredChunk | None:
        """The stored answer to exactly this question."""
        return await asyncio.to_thread(self.catalog.curated, store.id, question)

    async def is_empty(self, store: Store) -> bool:
        """Whether nothing in the store can be found."""
        counts, _ = await asyncio.to_thread(self.catalog.file_counts, store.id)
        return not counts.get("completed")

    async def search(
        self, store: Store, query: str, k: int, filters: Mapping[str, Any] | None = None
    ) -> list[Hit]:
        """See Retriever.search."""
        return await self.retriever.search(store, query, k, filters)

    async def term_weights(self, store: Store, query: str) -> dict[str, float]:
        """See Retriever.term_weights."""
        return await self.retriever.term_weights(store, query)

    async def chunks(self, store: Store, file_id: str) -> list[StoredChunk]:
        """A file's chunks; raises NotFound, or Conflict while it is not completed."""
        attached = await asyncio.to_thread(self.catalog.store_file, store.id, file_id)
        if attached.status != "completed":
            raise Conflict(f"File {file_id} is {attached.status}: it has no content yet.")
        return await asyncio.to_thread(self.catalog.file_chunks, store.id, file_id)

    async def file(self, file_id: str) -> FileRecord:
        """A file whose bytes are there; raises NotFound."""
        record = await asyncio.to_thread(self.catalog.file, file_id)
        await asyncio.to_thread(self.blobs.fetch, file_id)
        return record


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
