"""The write path: versions, removal while in progress, failures, rebuilding."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from rag_backend.errors import (
    Conflict,
    StartError,
    StorageAway,
    StorageBroken,
    StorageFull,
    StorageLocked,
)
from rag_backend.knowledge.embedding import EmbeddingProvider, Kind, Vectors
from rag_backend.knowledge.encoder import EncoderLoader
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store
from rag_backend.knowledge.recovery import Lost
from tests.rag_backend.knowledge.building import (
    DirectReading,
    GatedReading,
    assert_agreement,
    build_library,
    opened_library,
    put,
    settled,
    statuses,
)
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding
from tests.rag_backend.knowledge.storage import on_servers

pytestmark = pytest.mark.usefixtures("storage")


class GatedEmbedding(FakeEmbedding):
    """Embeds documents when the test lets it; one that mentions poison is a defect."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """See EmbeddingProvider."""
        if kind == "document":
            self.reached.set()
            self.gate.wait()
        if any("poison" in text for text in texts):
            raise ZeroDivisionError("a defect of the encoder")
        return super().embed(texts, kind)


@pytest.fixture
def encoder() -> GatedEmbedding:
    return GatedEmbedding()


@pytest.fixture
async def library(tmp_path: Path, encoder: GatedEmbedding) -> AsyncIterator[Library]:
    """Without processes and without a model."""
    async with opened_library(tmp_path, encoder, DirectReading()) as opened:
        yield opened


@pytest.fixture
async def store(library: Library) -> Store:
    return await library.store("default")


async def texts(library: Library, query: str) -> list[str]:
    store = await library.store("default")
    return [hit.chunk.text for hit in await library.search(store, query, 10)]


def fail_once(
    monkeypatch: pytest.MonkeyPatch, owner: object, method: str, error: Exception
) -> None:
    real = getattr(owner, method)

    def failing(*args: object, **kwargs: object) -> None:
        monkeypatch.setattr(owner, method, real)
        raise error

    monkeypatch.setattr(owner, method, failing)


async def test_new_bytes_under_a_name_replace_the_old(library: Library, store: Store) -> None:
    for version in ("first", "second", "third"):
        await put(library, store, "a.md", f"The {version} version".encode())
        await put(library, store, "b.md", b"Another file")
    await settled(library, store)
    assert sorted(await texts(library, "version")) == ["Another file", "The third version"]
    assert_agreement(library)


async def test_a_path_in_nfd_is_the_same_file(library: Library, store: Store) -> None:
    await put(library, store, "a.md", b"old", path="h\u01b0\u1edbng/a.md")
    await put(library, store, "a.md", b"new", path="hu\u031bo\u031b\u0301ng/a.md")
    await settled(library, store)
    assert await texts(library, "x") == ["new"]


async def test_a_file_that_cannot_be_read_fails_alone(library: Library, store: Store) -> None:
    await put(library, store, "good.md", b"Good text")
    bad = await put(library, store, "bad.pdf", b"%PDF-1.7 garbage")
    await settled(library, store)
    assert statuses(library, store) == {"good.md": "completed", "bad.pdf": "failed"}
    failed = library.catalog.store_file(store.id, bad.file_id)
    assert "bad.pdf" in (failed.error_message or "")
    assert_agreement(library)


async def test_a_defect_in_one_file_spares_the_rest_of_its_batch(
    library: Library, store: Store, encoder: GatedEmbedding
) -> None:
    encoder.gate.clear()
    for name in ("a", "b", "c", "d"):
        await put(library, store, f"{name}.md", b"poison" if name == "c" else name.encode())
    encoder.gate.set()
    await settled(library, store)
    assert {name for name, status in statuses(library, store).items() if status == "failed"} == {
        "c.md"
    }
    assert_agreement(library)


@pytest.mark.parametrize("part", ["_vectors", "_lexical", "_catalog"])
async def test_a_full_disk_fails_the_file_and_leaves_nothing(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    method = {"_vectors": "add", "_lexical": "replace", "_catalog": "complete_files"}[part]
    owner = getattr(library.retriever, part)
    fail_once(monkeypatch, owner, method, StorageFull("The disk is full."))
    file = await put(library, store, "a.md", b"Some text")
    await settled(library, store)
    failed = library.catalog.store_file(store.id, file.file_id)
    assert (failed.status, failed.error_message) == ("failed", "The disk is full.")
    assert_agreement(library)
    await library.attach(store, file.file_id, {})
    await settled(library, store)
    assert statuses(library, store) == {"a.md": "completed"}
    assert_agreement(library)


@pytest.mark.parametrize("method", ["complete_files", "store_file"])
async def test_a_catalog_that_is_locked_meanwhile_fails_no_file(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("rag_backend.knowledge.indexer._AWAY_SECONDS", 0)
    fail_once(monkeypatch, library.catalog, method, StorageLocked("It is locked."))
    await put(library, store, "a.md", b"Some text")
    await settled(library, store)
    assert statuses(library, store) == {"a.md": "completed"}
    assert_agreement(library)


async def test_what_a_locked_catalog_refused_leaves_no_bytes(
    library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fail_once(monkeypatch, library.catalog, "add_file", StorageLocked("It is locked."))
    with pytest.raises(StorageLocked):
        await put(library, await library.store("default"), "a.md", b"Some text")
    assert [path for path in tmp_path.rglob("file-*") if path.is_file()] == []


async def test_a_disk_too_full_to_record_the_failure_is_tried_again(
    library: Library,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("rag_backend.knowledge.indexer._RETRY_SECONDS", 0)
    full = StorageFull("The disk is full.")
    fail_once(monkeypatch, library.catalog, "complete_files", full)
    fail_once(monkeypatch, library.catalog, "fail", full)
    await put(library, store, "a.md", b"Some text")
    await settled(library, store)
    assert statuses(library, store) == {"a.md": "completed"}
    assert "tried again" in caplog.text
    assert_agreement(library)


@pytest.mark.parametrize("way", ["detach", "delete the file", "delete the store"])
@pytest.mark.parametrize("moment", ["waiting", "embedding"])
async def test_what_is_removed_in_progress_leaves_nothing(
    tmp_path: Path, encoder: GatedEmbedding, way: str, moment: str
) -> None:
    reading = GatedReading()
    async with opened_library(tmp_path, encoder, reading) as library:
        store = await library.store("default")
        encoder.gate.clear()
        file = await put(library, store, "a.md", b"Some text")
        await reading.reached.wait()
        if moment == "embedding":
            reading.gate.set()
            await asyncio.to_thread(encoder.reached.wait)
        match way:
            case "detach":
                await library.detach(store, file.file_id)
            case "delete the file":
                await library.delete_file(file.file_id)
            case _:
                await library.delete_store(store)
        reading.gate.set()
        encoder.gate.set()
        store = await library.store("default")
        await settled(library, store)
        assert statuses(library, store) == {}
        assert len(library.catalog.list_files()) == (0 if way == "delete the file" else 1)
        assert_agreement(library)


async def test_removed_and_back_while_it_is_embedded(
    library: Library, store: Store, encoder: GatedEmbedding
) -> None:
    encoder.gate.clear()
    file = await put(library, store, "a.md", b"Some text")
    await asyncio.to_thread(encoder.reached.wait)
    await library.detach(store, file.file_id)
    for _ in range(3):
        await library.attach(store, file.file_id, {})
    encoder.gate.set()
    await settled(library, store)
    assert await texts(library, "text") == ["Some text"]
    assert_agreement(library)


async def test_garbage_that_cannot_be_removed_is_tried_again(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(library, store, "a.md", b"First")
    await settled(library, store)
    fail_once(monkeypatch, library.blobs, "delete", PermissionError("in use"))
    fail_once(monkeypatch, library.retriever._vectors, "delete_files", StorageBroken("down"))
    await put(library, store, "a.md", b"Second")
    await put(library, store, "b.md", b"Third")
    library.indexer.sweep()
    await settled(library, store)
    assert sorted(await texts(library, "x")) == ["Second", "Third"]
    assert_agreement(library)


async def test_stopped_while_embedding_and_resumed(tmp_path: Path, encoder: GatedEmbedding) -> None:
    encoder.gate.clear()
    async with opened_library(tmp_path, encoder, DirectReading()) as library:
        store = await library.store("default")
        for name in ("a.md", "b.md"):
            await put(library, store, name, b"Some text")
        await asyncio.to_thread(encoder.reached.wait)
        asyncio.get_running_loop().call_later(0.05, encoder.gate.set)
    async with opened_library(tmp_path, encoder, DirectReading()) as library:
        await settled(library, store)
        assert set(statuses(library, store).values()) == {"completed"}
        assert_agreement(library)


async def test_a_broken_encoder_leaves_the_jobs_for_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> EmbeddingProvider:
        raise StartError("EMBEDDING_MODEL=x cannot be loaded.")

    loader = EncoderLoader(fails)
    library = build_library(tmp_path, loader, DirectReading())
    loader.start()
    await library.start()
    store = await library.store("default")
    await put(library, store, "a.md", b"Some text")
    with pytest.raises(StartError):
        await loader.wait()
    async with asyncio.timeout(30):
        while "nothing is indexed" not in caplog.text:
            await asyncio.sleep(0.01)
    assert statuses(library, store) == {"a.md": "in_progress"}
    assert "EMBEDDING_MODEL=x" in caplog.text
    await loader.stop()
    await library.stop()
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
        await settled(library, store)
        assert statuses(library, store) == {"a.md": "completed"}


async def test_another_encoder_is_refused_until_the_store_is_rebuilt(tmp_path: Path) -> None:
    async with opened_library(tmp_path, FakeEmbedding("one"), DirectReading()) as library:
        store = await library.store("default")
        for number in range(3):
            await put(library, store, f"{number}.md", b"Some text")
        await settled(library, store)
    other = FakeEmbedding("two", dimension=32)
    async with opened_library(tmp_path, other, DirectReading()) as library:
        store = await library.store("default")
        with pytest.raises(Conflict, match="ingest rebuild"):
            await library.search(store, "text", 3)
        await put(library, store, "new.md", b"New text")
        await settled(library, store)
        assert statuses(library, store)["new.md"] == "failed"
        await library.indexer.rebuild(store)
        await library.indexer.rebuild(store)
        await settled(library, store)
        # Whoever looked the store up before the rebuild finds it nevertheless.
        assert len(await library.search(store, "some text", 5)) == 3
        assert (await library.store("default")).embedding_model == "two"
        assert (await library.store("default")).generation == 1
        assert_agreement(library)


async def test_a_rebuild_that_failed_is_done_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
        store = await library.store("default")
        await put(library, store, "a.md", b"Some text")
        await settled(library, store)
        full = StorageFull("The disk is full.")
        fail_once(monkeypatch, library.catalog, "swap_generation", full)
        await library.indexer.rebuild(store)
        await put(library, store, "b.md", b"Other text")
        async with asyncio.timeout(30):
            while (
                statuses(library, store).get("b.md") != "completed"
                or "The disk is full." not in caplog.text
            ):
                await asyncio.sleep(0.01)
        assert len(await texts(library, "text")) == 2
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
        await settled(library, store)
        assert len(await texts(library, "text")) == 2
        assert_agreement(library)


@pytest.mark.parametrize("lost", ["chroma", "lexical"])
async def test_lost_derived_data_are_noticed_and_rebuilt(
    tmp_path: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    if on_servers():
        pytest.skip("there, the word index is made anew by itself: see test_following")
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
        store = await library.store("default")
        await put(library, store, "a.md", b"Some text")
        await settled(library, store)
    shutil.rmtree(tmp_path / lost)
    with caplog.at_level(logging.WARNING):
        async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
            assert "made anew from the catalog" in caplog.text
            assert await texts(library, "text") == ["Some text"]  # the other half answers already
            await settled(library, store)
            assert_agreement(library)
            assert (await library.store("default")).generation == 0
    caplog.clear()
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()):
        assert caplog.text == ""


async def test_a_start_that_is_tried_again_repairs_a_store_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the catalog goes away during it (see `following`)."""
    loaded = threading.Event()

    def load() -> FakeEmbedding:
        assert loaded.wait(60)
        return FakeEmbedding()

    encoder = EncoderLoader(load)
    library = build_library(tmp_path, encoder, DirectReading())
    for name in ("one", "two"):
        library.catalog.create_store(name, {})
    looked: list[str] = []
    repaired: list[str] = []

    def lost(store: Store) -> Lost:
        looked.append(store.id)
        if len(looked) == 2:
            raise StorageAway("The catalog does not answer.")
        return Lost(postings=False, vectors=True)

    indexer = library.indexer
    monkeypatch.setattr(indexer._recovery, "lost", lost)
    monkeypatch.setattr(
        indexer._recovery, "vectors", lambda store, encoder: repaired.append(store.name)
    )
    encoder.start()
    try:
        with pytest.raises(StorageAway):
            await indexer.start()
        await indexer.start()
        loaded.set()
        async with asyncio.timeout(30):
            while any(map(indexer.progress, library.catalog.list_stores())):
                await asyncio.sleep(0.01)
        assert sorted(repaired) == ["one", "two"]
    finally:
        loaded.set()
        await encoder.stop()
        await library.stop()


async def test_what_waits_is_counted(tmp_path: Path) -> None:
    reading = GatedReading()
    async with opened_library(tmp_path, FakeEmbedding(), reading) as library:
        store = await library.store("default")
        for number in range(3):
            await put(library, store, f"{number}.md", b"Some text")
        await reading.reached.wait()
        assert library.indexer.pending == 3
        reading.gate.set()
        await settled(library, store)
        assert library.indexer.pending == 0


async def test_a_file_larger_than_a_batch(library: Library, store: Store) -> None:
    rows = "\n".join(f"- item number {n} {'words ' * 150}" for n in range(600))
    await put(library, store, "big.md", rows.encode())
    await settled(library, store)
    assert library.catalog.count_chunks(store.id) >= 600
    assert_agreement(library)
