"""A library over a directory, wired as `rag_backend.app` does it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from ingest.chunking import StaticSize
from rag_backend.errors import StartError
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.embedding import EmbeddingProvider
from rag_backend.knowledge.encoder import EncoderLoader
from rag_backend.knowledge.encoders import Encoders
from rag_backend.knowledge.followed import FollowedIndex
from rag_backend.knowledge.following import Following
from rag_backend.knowledge.indexer import Indexer
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import FileStatus, Store, StoreFile
from rag_backend.knowledge.reader import read_and_chunk
from rag_backend.knowledge.reading import ReadingPool
from rag_backend.knowledge.reranking import Reranking
from rag_backend.knowledge.retriever import Retriever
from rag_backend.knowledge.shared_blobs import SharedBlobs
from rag_backend.knowledge.spooling import Chunks, handed_over
from tests.rag_backend.knowledge import storage


class KeptReading(ReadingPool):
    """A pool whose workers outlive one library: to start a process costs half a second."""

    def close(self) -> None:
        """Keep the workers."""

    def really_close(self) -> None:
        """Stop the workers."""
        super().close()


class DirectReading(ReadingPool):
    """Reads in this process: for tests in which the processes are not the point."""

    def __init__(self, spool: Path | None = None) -> None:
        super().__init__(1, timeout=60, memory_mb=256, spool=spool)

    async def read(
        self,
        path: Path,
        filename: str,
        tokenizer_file: Path | None,
        max_tokens: int,
        static: StaticSize | None = None,
    ) -> Chunks:
        """See ReadingPool."""
        work = (path, filename, tokenizer_file, max_tokens, static)
        spool = self._spool / path.name if self._spool else None
        return handed_over(await asyncio.to_thread(read_and_chunk, *work), spool)


class GatedReading(DirectReading):
    """Reads when the test lets it; `reached` once it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()

    async def read(
        self,
        path: Path,
        filename: str,
        tokenizer_file: Path | None,
        max_tokens: int,
        static: StaticSize | None = None,
    ) -> Chunks:
        """See ReadingPool."""
        self.reached.set()
        await self.gate.wait()
        return await super().read(path, filename, tokenizer_file, max_tokens, static)


@asynccontextmanager
async def opened_library(
    directory: Path,
    embedding: EmbeddingProvider,
    reading: ReadingPool,
    load: Callable[[str], EmbeddingProvider] | None = None,
    reranking: Reranking | None = None,
    shared: Path | None = None,
) -> AsyncIterator[Library]:
    """A started library; stopped, and its files released, at the end.

    `load` loads encoders that stores had before; without it, there is none to be found.
    """
    encoder = EncoderLoader(lambda: embedding)
    library = build_library(directory, encoder, reading, load, reranking, shared)
    encoder.start()
    await library.start()
    try:
        yield library
    finally:
        await encoder.stop()
        await library.stop()


def _not_found(model: str) -> EmbeddingProvider:
    raise StartError(f"EMBEDDING_MODEL={model} cannot be loaded.")


def build_library(
    directory: Path,
    encoder: EncoderLoader,
    reading: ReadingPool,
    load: Callable[[str], EmbeddingProvider] | None = None,
    reranking: Reranking | None = None,
    shared: Path | None = None,
) -> Library:
    """The parts, not started; on servers (`storage`) one backend of those at `shared`."""
    directory.mkdir(parents=True, exist_ok=True)
    shared = shared or directory
    catalog, vectors = storage.open_catalog(shared), storage.open_vectors(shared)
    encoders, reranking = Encoders(encoder, load or _not_found), reranking or Reranking()
    if catalog.owner is None:
        blobs = Blobs(directory / "files", 2**20)
        lexical = LexicalIndex(directory / "lexical")
        indexer = Indexer(catalog, blobs, vectors, lexical, encoders, reading, readers=1)
        retriever = Retriever(catalog, vectors, lexical, encoders, reranking)
        return Library(catalog, blobs, indexer, retriever)
    copies = SharedBlobs(directory / "files", 2**20, catalog)
    followed = FollowedIndex(directory / "lexical", catalog)
    indexer = Indexer(catalog, copies, vectors, followed, encoders, reading, readers=1)
    following = Following(catalog, followed, copies, indexer, directory / "backend-id")
    retriever = Retriever(catalog, vectors, followed, encoders, reranking)
    return Library(catalog, copies, indexer, retriever, following)


async def put(
    library: Library, store: Store, name: str, data: bytes, path: str | None = None
) -> StoreFile:
    """Upload bytes and attach them to a store."""

    async def parts() -> AsyncIterator[bytes]:
        yield data

    file = await library.upload(name, "user_data", parts())
    return await library.attach(store, file.id, {"path": path} if path else {})


async def settled(library: Library, store: Store, most_seconds: float = 60) -> None:
    """Wait until no job of the store is left, and no garbage at all."""
    async with asyncio.timeout(most_seconds):
        while (
            library.catalog.list_store_files(store.id, "in_progress")
            or library.catalog.list_garbage()
            or library.indexer.pending
            or any(
                found.rebuilding or library.indexer.progress(found)
                for found in library.catalog.list_stores()
            )
            or (library.following is not None and library.following.behind)
        ):
            await asyncio.sleep(0.01)


def statuses(library: Library, store: Store) -> dict[str, FileStatus]:
    """{file name: status} of a store's files."""
    listed = library.catalog.list_store_files(store.id)
    return {library.catalog.file(file.file_id).filename: file.status for file in listed}


def assert_agreement(library: Library, files: bool = True) -> None:
    """Chroma, tantivy and the disk hold exactly what the catalog says, id by id.

    `files` is false for one of several backends: its disk holds what it has used.
    """
    vectors, lexical = library.retriever._vectors, library.retriever._lexical
    collections = set()
    for store in library.catalog.list_stores():
        wanted = {
            chunk.id
            for file in library.catalog.list_store_files(store.id, "completed")
            for chunk in library.catalog.file_chunks(store.id, file.file_id)
        }
        assert vectors.ids(store.collection) == wanted
        assert lexical.ids(store.collection) == wanted
        assert library.catalog.count_chunks(store.id) == len(wanted)
        collections.add(store.collection)
    assert {found.name for found in vectors._chroma.client.list_collections()} <= collections
    assert {path.name for path in lexical._directory.glob("*")} <= collections
    assert library.catalog.list_garbage() == []
    if files:
        known = {file.id for file in library.catalog.list_files()}
        stored = {path.name for path in library.blobs.path("x").parent.iterdir()}
        assert stored - {"lost"} == known  # bytes that no file owns are kept there
