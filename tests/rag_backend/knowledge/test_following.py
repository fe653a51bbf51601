"""Several backends on one PostgreSQL and one Chroma server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest.document import Chunk
from rag_backend.errors import Conflict, NotFound, StorageAway, StorageBroken
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.encoder import EncoderLoader
from rag_backend.knowledge.followed import FollowedIndex
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import FileRecord, Store, StoreFile, new_id
from rag_backend.knowledge.sql.opening import open_postgres
from tests.rag_backend.knowledge import storage as places
from tests.rag_backend.knowledge.building import (
    DirectReading,
    GatedReading,
    assert_agreement,
    build_library,
    opened_library,
    put,
    settled,
)
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding
from tests.rag_backend.knowledge.storage import open_catalog
from tests.servers import Missing, Postgres, postgres


@pytest.fixture(autouse=True)
def _on_servers(servers: tuple[str, str]) -> Iterator[None]:
    with places.on(servers):
        yield


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Library, Library]]:
    """Two backends, each with a DATA_DIR of its own."""
    async with AsyncExitStack() as stack:
        a, b = [
            await stack.enter_async_context(
                opened_library(tmp_path / name, FakeEmbedding(), DirectReading(), shared=tmp_path)
            )
            for name in ("a", "b")
        ]
        yield a, b


async def until(condition: Callable[[], bool], most_seconds: float = 60) -> None:
    async with asyncio.timeout(most_seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)


async def both_settled(pair: tuple[Library, Library], store: Store) -> None:
    for library in pair:
        await settled(library, store)
    for library in pair:
        assert_agreement(library, files=False)


async def texts(library: Library, query: str, store: str = "default") -> list[str]:
    found = await library.search(await library.store(store), query, 10)
    return sorted(hit.chunk.text for hit in found)


def words_found(library: Library, store: Store, query: str) -> set[str]:
    """File ids, by this backend's own word index alone."""
    store = library.catalog.store(store.id)
    lexical = library.retriever._lexical
    return {i.rpartition(":")[0] for i, _ in lexical.search(store.collection, query, 10)}


# What one does, the other shows


async def test_a_file_put_in_here_is_found_there(pair: tuple[Library, Library]) -> None:
    a, b = pair
    store = await b.store("default")
    file = await put(a, store, "a.md", b"Lunch is at noon")
    await until(lambda: words_found(b, store, "lunch") == {file.file_id})
    assert await texts(b, "lunch") == ["Lunch is at noon"]
    assert (await b.file(file.file_id)).id == file.file_id
    assert b.blobs.path(file.file_id).read_bytes() == b"Lunch is at noon"
    await both_settled(pair, store)
    now = await b.store("default")
    assert [library.is_complete(now) for library in pair] == [True, True]
    assert not b.is_complete(replace(now, revision=now.revision + 1))


async def test_uploaded_here_attached_there(pair: tuple[Library, Library]) -> None:
    a, b = pair
    store = await a.store("default")

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"Lunch is at noon. " * 10_000

    file = await a.upload("a.txt", "user_data", parts())
    await b.attach(store, file.id, {})
    await both_settled(pair, store)
    assert b.catalog.store_file(store.id, file.id).status == "completed"
    assert b.blobs.path(file.id).stat().st_size == file.bytes


async def test_what_is_deleted_there_is_gone_here_at_once(pair: tuple[Library, Library]) -> None:
    a, b = pair
    store = await a.store("default")
    file = await put(a, store, "a.md", b"Lunch is at noon")
    await settled(a, store)
    await settled(b, store)
    await a.delete_file(file.file_id)
    assert await texts(b, "lunch") == []
    with pytest.raises(NotFound):
        await b.file(file.file_id)
    await both_settled(pair, store)
    assert words_found(b, store, "lunch") == set()


async def test_versions_of_a_file_put_in_on_both_sides(pair: tuple[Library, Library]) -> None:
    store = await pair[0].store("default")
    for number in range(6):
        await put(pair[number % 2], store, "a.md", f"Version {number}".encode())
    await both_settled(pair, store)
    for library in pair:
        assert await texts(library, "version") == ["Version 5"]


async def test_detached_and_attached_on_the_other_side(pair: tuple[Library, Library]) -> None:
    a, b = pair
    store = await a.store("default")
    file = await put(a, store, "a.md", b"Lunch is at noon")
    await settled(a, store)
    for library in (a, b, b, a):
        await library.detach(store, file.file_id)
        other = b if library is a else a
        await other.attach(store, file.file_id, {})
        await settled(other, store)
    await both_settled(pair, store)
    for library in pair:
        assert words_found(library, store, "lunch") == {file.file_id}


async def test_rebuilt_here_while_files_come_in_there(pair: tuple[Library, Library]) -> None:
    a, b = pair
    store = await a.store("default")
    for number in range(5):
        await put(a, store, f"{number}.md", f"Word{number}".encode())
    await settled(a, store)
    await a.indexer.rebuild(store)
    for number in range(5, 10):
        await put(b, store, f"{number}.md", f"Word{number}".encode())
    await b.indexer.rebuild(store)  # asked for twice
    await both_settled(pair, store)
    assert a.catalog.store(store.id).generation >= 1
    for library in pair:
        for number in range(10):
            assert f"Word{number}" in await texts(library, f"word{number}")
    assert {path.name for path in (b.blobs.path("x").parents[1] / "lexical").iterdir()} == {
        b.catalog.store(store.id).collection
    }


async def test_a_store_deleted_while_the_other_indexes_into_it(
    pair: tuple[Library, Library],
) -> None:
    a, b = pair
    store = a.catalog.create_store("other", {})
    for number in range(5):
        await put(b, store, f"{number}.md", b"Some text")
    await a.delete_store(store)
    await both_settled(pair, store)
    with pytest.raises(NotFound):
        await b.store("other")


# Who does what


async def test_a_job_of_the_dead_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = EncoderLoader(FakeEmbedding)
    dying = build_library(tmp_path / "dying", loader, GatedReading(), shared=tmp_path)
    loader.start()
    await dying.start()
    store = await dying.store("default")
    file = await put(dying, store, "a.md", b"Lunch is at noon")
    assert dying.following is not None
    async with opened_library(
        tmp_path / "b", FakeEmbedding(), DirectReading(), shared=tmp_path
    ) as b:
        assert b.catalog.claim_jobs() == []  # it is alive
        await dying.following.stop()  # no heartbeat any more, and no farewell
        monkeypatch.setattr("rag_backend.knowledge.sql.backends.DEAD_SECONDS", 1.0)
        await settled(b, store)
        done = b.catalog.store_file(store.id, file.file_id)
        assert (done.status, done.owner) == ("completed", b.catalog.owner)
        # It wakes up, and finds that its job is not its own.
        late = [Chunk("Something else", 0, 14)]
        assert not dying.catalog.complete(store.id, file.file_id, late, store.collection)
        dying.catalog.fail(store.id, file.file_id, "server_error", "late", written=True)
        assert await texts(b, "lunch") == ["Lunch is at noon"]
        assert_agreement(b)
    await loader.stop()
    await dying.stop()


async def test_one_that_stops_leaves_its_jobs_to_the_others(tmp_path: Path) -> None:
    async with opened_library(
        tmp_path / "b", FakeEmbedding(), DirectReading(), shared=tmp_path
    ) as b:
        async with opened_library(
            tmp_path / "a", FakeEmbedding(), GatedReading(), shared=tmp_path
        ) as a:
            store = await a.store("default")
            await put(a, store, "a.md", b"Lunch is at noon")
        await settled(b, store)
        assert await texts(b, "lunch") == ["Lunch is at noon"]


async def test_a_lost_word_index_is_made_anew(tmp_path: Path) -> None:
    async with opened_library(
        tmp_path / "a", FakeEmbedding(), DirectReading(), shared=tmp_path
    ) as a:
        store = await a.store("default")
        file = await put(a, store, "a.md", b"Lunch is at noon")
        await settled(a, store)
    for path in (tmp_path / "a" / "lexical" / store.collection).iterdir():
        path.unlink()
    async with opened_library(
        tmp_path / "a", FakeEmbedding(), DirectReading(), shared=tmp_path
    ) as a:
        await settled(a, store)
        assert words_found(a, store, "lunch") == {file.file_id}
        assert_agreement(a)


# Many at the same time


def test_catalogs_at_the_same_time(tmp_path: Path) -> None:
    catalogs = [open_catalog(tmp_path) for _ in range(3)]
    for catalog in catalogs:
        catalog.beat()
    store = catalogs[0].create_store("main", {})

    def hammer(catalog: Catalog, names: list[str]) -> None:
        for name in names:
            attached = _attached(catalog, store, name)
            catalog.complete(store.id, attached.file_id, [Chunk(name, 0, 1)], store.collection)
            with pytest.raises(Conflict):
                catalog.create_store("main", {})
            catalog.collect_garbage(lambda found: [item.id for item in found])

    names = [f"{number % 5}.md" for number in range(20)]
    with ThreadPoolExecutor(6) as pool:
        for running in [pool.submit(hammer, catalog, names) for catalog in catalogs * 2]:
            running.result()
    files = catalogs[0].list_store_files(store.id)
    # One completed version of each document, the one attached last; each place given once.
    assert sorted(file.identity for file in files) == [f"{n}.md" for n in range(5)]
    assert {file.status for file in files} == {"completed"}
    assert len({file.sequence for file in files}) == 5
    assert catalogs[0].store(store.id).attached == 120
    assert catalogs[0].count_chunks(store.id) == 5
    assert len(catalogs[0].list_files()) == 5
    assert catalogs[0].store(store.id).revision >= 115
    for catalog in catalogs:
        catalog.close()


def test_jobs_are_claimed_once(tmp_path: Path) -> None:
    dead, *alive = [open_catalog(tmp_path) for _ in range(4)]
    store = dead.create_store("main", {})
    for number in range(30):
        _attached(dead, store, str(number))  # it was never seen alive
    for catalog in alive:
        catalog.beat()
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(catalog.claim_jobs) for catalog in alive]
        claimed = [file for run in runs for file in run.result()]
    assert len(claimed) == len({file.file_id for file in claimed}) == 30
    for catalog in (dead, *alive):
        catalog.close()


def test_one_learns_a_stores_weights_at_a_time(tmp_path: Path) -> None:
    dead, one, other = (open_catalog(tmp_path) for _ in range(3))
    store = one.create_store("main", {})
    assert dead.claim_learning(store.id)  # and it was never seen alive
    one.beat()
    other.beat()
    assert one.claim_learning(store.id)
    assert not other.claim_learning(store.id)
    assert one.claim_learning(store.id)
    other.end_learning(store.id)
    assert not other.claim_learning(store.id)
    one.end_learning(store.id)
    assert other.claim_learning(store.id)
    assert not other.claim_learning("vs_unknown")
    for catalog in (dead, one, other):
        catalog.close()


def test_what_is_new_is_found_by_the_revision(tmp_path: Path) -> None:
    catalog = open_catalog(tmp_path)
    store = catalog.create_store("main", {})
    shown: list[str] = []
    for name in ("a", "b", "c"):
        attached = _attached(catalog, store, name)
        shown.append(attached.file_id)
        before = catalog.store(store.id).revision
        catalog.complete(store.id, attached.file_id, [Chunk(name, 0, 1)], store.collection)
        assert [file.file_id for file in catalog.completed(store.id, before)] == [shown[-1]]
    assert [file.file_id for file in catalog.completed(store.id, -1)] == shown[::-1]
    assert catalog.completed(store.id, catalog.store(store.id).revision) == []
    catalog.detach(store.id, shown[2])
    assert [file.file_id for file in catalog.completed(store.id, -1)] == shown[1::-1]
    catalog.close()


@pytest.mark.slow
async def test_the_newest_do_not_wait_for_what_a_rebuild_brings(
    pair: tuple[Library, Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    assert b.following is not None
    store = await a.store("default")
    await put(a, store, "old.md", b"Breakfast is at seven")
    await both_settled(pair, store)
    lexical = b.retriever._lexical
    may, entered = threading.Event(), threading.Event()
    bring = FollowedIndex._bring_missing

    def held(index: FollowedIndex, *args: Any) -> bool:
        if index is lexical and args[1].endswith("-1"):
            entered.set()
            assert may.wait(60)
        return bring(index, *args)

    monkeypatch.setattr(FollowedIndex, "_bring_missing", held)
    await a.indexer.rebuild(store)
    await until(entered.is_set)
    file = await put(a, store, "new.md", b"Lunch is at noon")
    await until(lambda: words_found(b, store, "lunch") == {file.file_id})
    assert not may.is_set()
    may.set()
    await both_settled(pair, store)
    assert words_found(b, store, "lunch") == {file.file_id}


def _attached(catalog: Catalog, store: Store, name: str) -> StoreFile:
    file_id = new_id("file-")
    catalog.add_file(FileRecord(file_id, name, 3, "0" * 64, "user_data", 1))
    return catalog.attach(store.id, file_id, {}, name)


# Opening


def test_opened_by_many_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(5) as pool:
        catalogs = list(pool.map(open_catalog, [tmp_path] * 5))
    assert catalogs[4].list_stores() == []
    for catalog in catalogs:
        catalog.close()


def test_a_catalog_of_before_is_brought_up_to_date(tmp_path: Path) -> None:
    first = open_catalog(tmp_path)
    store = first.create_store("main", {})
    with first._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE stores DROP COLUMN attached")
        connection.exec_driver_sql("DROP TABLE backends")
        connection.exec_driver_sql("UPDATE catalog_version SET version = 2")
    again = open_catalog(tmp_path)
    again.beat()
    assert again.store("main") == store
    with first._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE catalog_version SET version = 99")
    with pytest.raises(StorageBroken, match=r"PostgreSQL at .* was made by a later"):
        open_catalog(tmp_path)
    first.close()
    again.close()


def test_the_order_of_pages_is_that_of_sqlite(tmp_path: Path) -> None:
    catalog = open_catalog(tmp_path)
    ids = ["file-B", "file-a", "file-_", "file-1", "file-á"]
    for file_id in ids:
        catalog.add_file(FileRecord(file_id, "x", 1, "0" * 64, "user_data", 1))
    assert [file.id for file in catalog.list_files()] == sorted(ids)
    catalog.close()


# The server goes away


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL of these tests' own, to be stopped."""
    try:
        with postgres() as running:
            yield running
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
async def test_a_restart_of_postgresql_loses_nothing(
    server: Postgres, servers: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_backend.knowledge.indexer._AWAY_SECONDS", 0.1)
    with places.on((server.url, servers[1])):
        async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
            store = await library.store("default")
            for number in range(20):
                await put(library, store, f"{number}.md", f"Word{number}".encode())
            await asyncio.to_thread(server.stop)
            with pytest.raises(StorageAway, match="PostgreSQL"):
                await library.store("default")
            await asyncio.to_thread(server.start)
            await settled(library, store)
            statuses = [file.status for file in library.catalog.list_store_files(store.id)]
            assert statuses == ["completed"] * 20
            assert_agreement(library)


def test_a_server_that_does_not_answer_is_a_sentence(server: Postgres) -> None:
    elsewhere = server.url.replace(str(server.port), "1")
    with pytest.raises(StorageAway, match=r"127\.0\.0\.1:1/postgres \(DATABASE_URL\)") as raised:
        open_postgres(elsewhere)
    assert "p@ss" not in str(raised.value)
    assert "p%40" not in str(raised.value)
    with pytest.raises(StorageAway, match="password"):
        open_postgres(server.url.replace("p%40ss", "wrong"))
