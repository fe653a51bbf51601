"""What one backend changes while another one of the same catalog writes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Attachment
from rag_backend.knowledge.refilling import Refill
from tests.rag_backend.knowledge import storage as places
from tests.rag_backend.knowledge.building import (
    DirectReading,
    GatedReading,
    assert_agreement,
    opened_library,
    put,
    settled,
)
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding

LONG = " ".join(f"Sentence {number} of a long text about lunch." for number in range(200)).encode()
SMALL = {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}


@pytest.fixture(autouse=True)
def _on_servers(servers: tuple[str, str]) -> Iterator[None]:
    with places.on(servers):
        yield


@pytest.fixture
def held() -> GatedReading:
    return GatedReading()


@pytest.fixture
async def pair(tmp_path: Path, held: GatedReading) -> AsyncIterator[tuple[Library, Library]]:
    """Two backends; the first one's readers wait."""
    async with AsyncExitStack() as stack:
        a, b = [
            await stack.enter_async_context(
                opened_library(tmp_path / name, FakeEmbedding(), reading, shared=tmp_path)
            )
            for name, reading in (("a", held), ("b", DirectReading()))
        ]
        yield a, b


async def test_a_batch_cancelled_there_while_it_is_read_here(
    pair: tuple[Library, Library], held: GatedReading
) -> None:
    a, b = pair
    store = await a.store("default")

    async def parts() -> AsyncIterator[bytes]:
        yield b"Lunch is at noon"

    file = await a.upload("a.md", "user_data", parts())
    batch = await a.attach_batch(store, [Attachment(file.id)])
    await held.reached.wait()
    cancelled = await b.cancel_batch(store, batch.id)
    assert cancelled.counts == {"cancelled": 1}
    held.gate.set()
    for library in pair:
        await settled(library, store)
        assert_agreement(library, files=False)
    # It comes back on the other side.
    await b.attach(store, file.id, None)
    for library in pair:
        await settled(library, store)
        assert_agreement(library, files=False)
    assert (await b.store("default")).revision > store.revision


@pytest.mark.slow
async def test_a_file_taken_out_and_put_back_otherwise_while_the_store_is_rebuilt(
    pair: tuple[Library, Library], held: GatedReading, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.gate.set()
    a, b = pair
    store = await a.store("default")
    kept = await put(a, store, "kept.md", b"Dinner is at six")
    gone = await put(a, store, "gone.md", b"Tea is at four")
    long = await put(a, store, "long.md", LONG)
    await settled(a, store)
    loop, really = asyncio.get_running_loop(), Refill.lacks_something
    once = threading.Lock()

    def meanwhile(refill: Refill) -> bool:
        if once.acquire(blocking=False):  # all is written, and nothing compared
            b.catalog.detach(store.id, gone.file_id)
            b.catalog.detach(store.id, long.file_id)
            wanted = [Attachment(long.file_id, {}, SMALL)]
            for file in b.catalog.attach_all(store.id, wanted):
                loop.call_soon_threadsafe(b.indexer.submit, file)
            deadline = time.monotonic() + 60
            while b.catalog.store_file(store.id, long.file_id).status != "completed":
                assert time.monotonic() < deadline
                threading.Event().wait(0.01)
        return really(refill)

    monkeypatch.setattr(Refill, "lacks_something", meanwhile)
    before = len(b.catalog.file_chunks(store.id, long.file_id))
    await a.indexer.rebuild(store)
    for library in pair:
        await settled(library, store)
        assert_agreement(library, files=False)
    assert not once.acquire(blocking=False)
    assert a.catalog.store(store.id).generation == 1
    assert len(a.catalog.file_chunks(store.id, long.file_id)) != before
    assert a.catalog.chunk_counts(store.id).keys() == {kept.file_id, long.file_id}


async def test_what_expires_goes_once(pair: tuple[Library, Library], held: GatedReading) -> None:
    held.gate.set()
    a, b = pair
    store = await a.store("default")
    file = await put(a, store, "a.md", b"Lunch is at noon")
    await settled(a, store)
    later = int(time.time()) + 10 * 86_400
    record = a.catalog.file(file.file_id)
    a.catalog.delete_file(record.id)
    a.catalog.add_file(replace(record, id="file-short", expires_at=later - 1))
    await b.set_expiry(store, 5)
    for library in pair:
        library.expirer._clock = lambda: later
    await asyncio.gather(a.expirer.look(), b.expirer.look())
    assert a.catalog.expired_files(later) == []
    assert b.catalog.store(store.id).generation == 1
    for library in pair:
        await settled(library, store)
