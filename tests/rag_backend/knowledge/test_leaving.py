"""Jobs that are cancelled or expire, at each moment: no half of a file stays anywhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rag_backend.errors import Conflict, NotFound
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Attachment, Batch, Store
from tests.rag_backend.knowledge.building import (
    DirectReading,
    assert_agreement,
    opened_library,
    put,
    settled,
    statuses,
)
from tests.rag_backend.knowledge.test_indexer import GatedEmbedding, GatedReading

WINDOWS = {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 50}


async def batch_of(library: Library, store: Store, *names: str) -> Batch:
    """Files that are uploaded, put into the store and come as one batch."""
    ids = [(await put(library, store, name, f"Text {name}".encode())).file_id for name in names]
    return await library.attach_batch(store, [Attachment(file_id) for file_id in ids])


async def close(library: Library, encoder: GatedEmbedding) -> None:
    """From now on nothing is embedded; the probe of a loading encoder must not wait for that."""
    await library.retriever._encoders.present.wait()
    encoder.reached.clear()
    encoder.gate.clear()


@pytest.mark.parametrize("moment", ["waiting", "embedding"])
async def test_a_batch_cancelled(tmp_path: Path, moment: str) -> None:
    reading, encoder = GatedReading(), GatedEmbedding()
    async with opened_library(tmp_path, encoder, reading) as library:
        await close(library, encoder)
        store = await library.store("default")
        batch = await batch_of(library, store, "a.md", "b.md", "c.md")
        await reading.reached.wait()
        if moment == "embedding":
            reading.gate.set()
            await asyncio.to_thread(encoder.reached.wait)
        cancelled = await library.cancel_batch(store, batch.id)
        assert cancelled.counts == {"cancelled": 3}
        reading.gate.set()
        encoder.gate.set()
        await settled(library, store)
        assert set(statuses(library, store).values()) == {"cancelled"}
        assert_agreement(library)
        assert await library.search(store, "text", 5) == []


async def test_cancelled_and_back_with_another_chunking_while_it_is_embedded(
    tmp_path: Path,
) -> None:
    encoder = GatedEmbedding()
    async with opened_library(tmp_path, encoder, DirectReading()) as library:
        store = await library.store("default")
        await close(library, encoder)
        batch = await batch_of(library, store, "a.md")
        await asyncio.to_thread(encoder.reached.wait)
        await library.cancel_batch(store, batch.id)
        [file] = library.catalog.list_store_files(store.id)
        again = await library.attach(store, file.file_id, None, WINDOWS)
        assert again.chunking == WINDOWS
        encoder.gate.set()
        await settled(library, store)
        assert statuses(library, store) == {"a.md": "completed"}
        assert_agreement(library)


@pytest.mark.parametrize("moment", ["embedding", "done"])
async def test_a_store_that_expires_and_comes_back(tmp_path: Path, moment: str) -> None:
    encoder = GatedEmbedding()
    async with opened_library(tmp_path, encoder, DirectReading()) as library:
        store = await library.create_store("lent", {}, expires_after_days=1)
        await put(library, store, "a.md", b"Some text")
        await settled(library, store)
        if moment == "embedding":
            await close(library, encoder)
            await put(library, store, "b.md", b"More text")
            await asyncio.to_thread(encoder.reached.wait)
        library.catalog.update_store(store.id, last_active_at=1)
        await library.expirer.look()
        encoder.gate.set()
        await settled(library, store)
        assert_agreement(library)
        expired = await library.store(store.id)
        for refused in (library.search(expired, "x", 3), library.attach(expired, "file-x", None)):
            with pytest.raises(Conflict, match="has expired"):
                await refused
        await library.set_expiry(expired, 7)
        await settled(library, store)
        back = await library.store(store.id)
        assert set(statuses(library, store).values()) == {"completed"}
        both = ["More text", "Some text"] if moment == "embedding" else ["Some text"]
        assert sorted(hit.chunk.text for hit in await library.search(back, "text", 3)) == both
        assert_agreement(library)


async def test_a_store_is_created_with_all_its_files_or_not_at_all(tmp_path: Path) -> None:
    async with opened_library(tmp_path, GatedEmbedding(), DirectReading()) as library:
        default = await library.store("default")
        file = await put(library, default, "a.md", b"Some text")
        before = library.catalog.list_stores()
        for missing in ("file-gone", "vs_1"):
            with pytest.raises(NotFound, match="No such file"):
                await library.create_store(
                    "new", {}, [Attachment(file.file_id), Attachment(missing)]
                )
        assert [s.id for s in library.catalog.list_stores()] == [s.id for s in before]
        store = await library.create_store("new", {}, [Attachment(file.file_id)])
        await settled(library, store)
        assert statuses(library, store) == {"a.md": "completed"}
        assert_agreement(library)
