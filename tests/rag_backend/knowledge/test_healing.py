"""What is lost while the backend runs comes back by itself, with a real embedded Chroma."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path

import pytest

from rag_backend.errors import RAGError
from rag_backend.knowledge import healing
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store
from rag_backend.knowledge.refilling import Refill
from tests.rag_backend.knowledge import storage as places
from tests.rag_backend.knowledge.building import (
    DirectReading,
    assert_agreement,
    opened_library,
    put,
    settled,
    statuses,
)
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding

FILES = 8


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr("rag_backend.knowledge.indexer._AWAY_SECONDS", 0.1)


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    with places.on(None):
        async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as opened:
            yield opened


async def filled(library: Library) -> Store:
    """The default store, with some files in it."""
    store = await library.store("default")
    for number in range(FILES):
        await put(library, store, f"{number}.md", f"Word{number} of a text".encode())
    await settled(library, store)
    return store


async def found(library: Library, store: Store, query: str) -> list[str]:
    return [hit.chunk.text for hit in await library.search(store, query, 10)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def agrees(library: Library) -> bool:
    """Whether vectors and postings are what the catalog says."""
    store = library.catalog.store("default")
    wanted = {
        chunk.id
        for file in library.catalog.list_store_files(store.id, "completed")
        for chunk in library.catalog.file_chunks(store.id, file.file_id)
    }
    retriever = library.retriever
    if retriever._vectors.damaged or not library.indexer.is_whole(store):
        return False
    lexical = retriever._lexical.ids(store.collection)
    return retriever._vectors.ids(store.collection) == wanted == lexical


def remove(folder: Path) -> None:
    """At once: whoever writes there meanwhile would be in the way of deleting file by file."""
    away = Path(tempfile.mkdtemp(dir=folder.parents[1]))
    folder.rename(away / folder.name)
    shutil.rmtree(away)


def damage_sqlite(folder: Path) -> None:
    with (folder / "chroma.sqlite3").open("r+b") as file:
        file.write(b"garbage" * 20_000)


@pytest.mark.parametrize("damage", [remove, damage_sqlite])
async def test_chromas_directory(
    library: Library, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = await filled(library)
    damage(tmp_path / "chroma")
    assert (await found(library, store, "word3"))[0] == "Word3 of a text"
    await put(library, store, "new.md", b"Something new")
    await put(library, store, "3.md", b"Word3 in another text")
    await until(lambda: len(list((tmp_path / "chroma").glob("*"))) > 0 and agrees(library))
    await settled(library, store)
    assert set(statuses(library, store).values()) == {"completed"}
    assert len(statuses(library, store)) == FILES + 1
    assert_agreement(library)
    assert library.indexer.problem is None
    assert "Word3 in another text" in await found(library, store, "word3")


async def test_it_is_said_and_answers_are_not_kept(library: Library, tmp_path: Path) -> None:
    store = await filled(library)
    assert library.is_complete(store)
    remove(tmp_path / "chroma")
    assert "vectors are damaged" in str(library.indexer.problem)
    assert not library.is_complete(store)
    await until(lambda: library.is_complete(store))
    assert_agreement(library)


async def test_a_collection(library: Library) -> None:
    store = await filled(library)
    library.retriever._vectors._chroma.client.delete_collection(store.collection)
    assert "Word3 of a text" in await found(library, store, "word3")
    await until(lambda: agrees(library))


async def test_a_collection_while_files_come(library: Library) -> None:
    store = await filled(library)
    library.retriever._vectors._chroma.client.delete_collection(store.collection)
    for number in range(FILES):
        await put(library, store, f"more{number}.md", f"More{number}".encode())
    await until(lambda: agrees(library))
    await settled(library, store)
    assert_agreement(library)


async def test_a_rebuild_under_way(library: Library, tmp_path: Path) -> None:
    store = await filled(library)
    await library.indexer.rebuild(store)
    remove(tmp_path / "chroma")
    await settled(library, store)
    await until(lambda: agrees(library))
    await settled(library, store)
    assert_agreement(library)


@pytest.fixture
def began_again(library: Library, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Ids of the stores whose refills were interrupted, and whose jobs began again."""
    seen: set[str] = set()
    jobs, refills = library.indexer._jobs, library.indexer._refills
    outdate, interrupt = jobs.outdate_stores, refills.interrupt

    def outdated(store_ids: Collection[str]) -> None:
        assert seen >= set(store_ids)
        outdate(store_ids)

    def interrupted(store_id: str, error: RAGError) -> None:
        seen.add(store_id)
        interrupt(store_id, error)

    monkeypatch.setattr(jobs, "outdate_stores", outdated)
    monkeypatch.setattr(refills, "interrupt", interrupted)
    return seen


async def test_a_failure_that_took_nothing(library: Library, began_again: set[str]) -> None:
    store = await filled(library)
    vectors = library.retriever._vectors
    await library.indexer.rebuild(store)
    vectors._chroma._damaged = True
    await until(lambda: not vectors.damaged)
    async with library.indexer._refills.writing:
        assert began_again == set(), "the look that opened it anew is over"
    await settled(library, store)
    assert_agreement(library)


async def test_only_who_lost_something_begins_again(
    library: Library, began_again: set[str]
) -> None:
    store = await filled(library)
    other = await library.create_store("other", {})
    await put(library, other, "other.md", b"Another text")
    await settled(library, other)
    vectors = library.retriever._vectors
    files = library.catalog.list_store_files(store.id, "completed")
    vectors.delete_files(store.collection, [files[0].file_id])
    vectors._chroma._damaged = True
    await until(lambda: began_again != set())
    assert began_again == {store.id}
    await until(lambda: agrees(library))
    assert_agreement(library)


async def test_a_rebuild_that_lost_what_it_has_written(
    library: Library, began_again: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_backend.knowledge.refills._AWAY_SECONDS", 0.1)
    store = await filled(library)
    vectors, refills = library.retriever._vectors, library.indexer._refills
    finish = library.indexer._writer.finish
    lost: list[Refill] = []

    def lose_all(refill: Refill) -> bool:
        """Once all is written, and before it is served."""
        if not lost:
            vectors._chroma.client.delete_collection(refill.collection)
            vectors._chroma._damaged = True
            lost.append(refill)
        return finish(refill) if began_again else False

    monkeypatch.setattr(library.indexer._writer, "finish", lose_all)
    await library.indexer.rebuild(store)
    await until(lambda: began_again != set())
    assert began_again == {store.id}
    await until(lambda: refills.names == [] and not library.catalog.store(store.id).rebuilding)
    await settled(library, store)
    assert_agreement(library)


async def test_a_store_that_never_had_anything(library: Library) -> None:
    store = await library.store("default")
    assert await found(library, store, "anything") == []
    assert library.is_complete(store)
    assert library.indexer.problem is None


def damage_segments(folder: Path) -> None:
    for path in folder.iterdir():
        if path.suffix:
            path.write_bytes(b"garbage")
    (folder / "meta.json").write_text("{")


@pytest.mark.parametrize("damage", [remove, damage_segments])
async def test_the_word_index(
    library: Library, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = await filled(library)
    damage(tmp_path / "lexical" / store.collection)
    await found(library, store, "word3")
    await put(library, store, "new.md", b"Something new")
    await until(lambda: agrees(library))
    await settled(library, store)
    assert set(statuses(library, store).values()) == {"completed"}
    assert_agreement(library)


class TestOnServers:
    """A collection of a Chroma server, and one backend's own word index."""

    @pytest.fixture(autouse=True)
    def _on_servers(self, servers: tuple[str, str]) -> Iterator[None]:
        with places.on(servers):
            yield

    async def test_a_collection_is_deleted(self, tmp_path: Path) -> None:
        async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
            store = await filled(library)
            library.retriever._vectors._chroma.client.delete_collection(store.collection)
            assert "Word3 of a text" in await found(library, store, "word3")
            await until(lambda: agrees(library))
            await settled(library, store)
            assert_agreement(library)

    @pytest.mark.parametrize("damage", [remove, damage_segments])
    async def test_the_word_index_of_one(
        self, tmp_path: Path, damage: Callable[[Path], None]
    ) -> None:
        async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
            store = await filled(library)
            damage(tmp_path / "lexical" / store.collection)
            await found(library, store, "word3")
            await put(library, store, "new.md", b"Something new")
            await until(lambda: agrees(library))
            await settled(library, store)
            assert_agreement(library)
