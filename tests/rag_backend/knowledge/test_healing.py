"""What is lost while the backend runs comes back by itself, with a real embedded Chroma."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from rag_backend.knowledge import healing
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store
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
    async with asyncio.timeout(30):
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


def damage_sqlite(folder: Path) -> None:
    with (folder / "chroma.sqlite3").open("r+b") as file:
        file.write(b"garbage" * 20_000)


@pytest.mark.parametrize("damage", [shutil.rmtree, damage_sqlite])
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
    shutil.rmtree(tmp_path / "chroma")
    assert "vectors are damaged" in str(library.indexer.problem)
    assert not library.is_complete(store)
    await until(lambda: library.is_complete(store))
    assert_agreement(library)


async def test_a_collection(library: Library) -> None:
    store = await filled(library)
    library.retriever._vectors._client.delete_collection(store.collection)
    assert "Word3 of a text" in await found(library, store, "word3")
    await until(lambda: agrees(library))


async def test_a_collection_while_files_come(library: Library) -> None:
    store = await filled(library)
    library.retriever._vectors._client.delete_collection(store.collection)
    for number in range(FILES):
        await put(library, store, f"more{number}.md", f"More{number}".encode())
    await until(lambda: agrees(library))
    await settled(library, store)
    assert_agreement(library)


async def test_a_rebuild_under_way(library: Library, tmp_path: Path) -> None:
    store = await filled(library)
    await library.indexer.rebuild(store)
    shutil.rmtree(tmp_path / "chroma")
    await settled(library, store)
    await until(lambda: agrees(library))
    await settled(library, store)
    assert_agreement(library)


async def test_a_store_that_never_had_anything(library: Library) -> None:
    store = await library.store("default")
    assert await found(library, store, "anything") == []
    assert library.is_complete(store)
    assert library.indexer.problem is None


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


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
            library.retriever._vectors._client.delete_collection(store.collection)
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
