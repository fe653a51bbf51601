"""Stores that are rebuilt and repaired while everything else goes on."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rag_backend.errors import StorageBroken
from rag_backend.knowledge.embedding import Kind, Vectors
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store
from tests.rag_backend.knowledge.building import (
    DirectReading,
    assert_agreement,
    opened_library,
    put,
    settled,
    statuses,
)
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding

LONG = "\n\n".join(f"## Part {n}\n\nOf the long file, number {n}." for n in range(3000)).encode()


class Paced(FakeEmbedding):
    """Embeds documents as often as it is allowed to."""

    def __init__(self, model_id: str = "fake", dimension: int = 64) -> None:
        super().__init__(model_id, dimension)
        self.free = threading.Event()
        self.free.set()
        self.waiting = threading.Event()
        self.embedded: list[str] = []
        self._turns = threading.Semaphore(0)

    def allow(self, turns: int) -> None:
        """So many calls more."""
        self._turns.release(turns)

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """See EmbeddingProvider."""
        if kind == "document" and len(texts) > 1 and not self.free.is_set():
            self.waiting.set()
            while not self.free.is_set() and not self._turns.acquire(timeout=0.02):
                pass
        self.embedded += texts
        return super().embed(texts, kind)


@pytest.fixture
def encoder() -> Paced:
    return Paced()


@pytest.fixture
async def library(tmp_path: Path, encoder: Paced) -> AsyncIterator[Library]:
    spooling = DirectReading(tmp_path / "reading")
    async with opened_library(tmp_path, encoder, spooling) as opened:
        yield opened
        encoder.free.set()


@pytest.fixture
async def store(library: Library) -> Store:
    return await library.store("default")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def stepwise(encoder: Paced, condition: Callable[[], bool]) -> int:
    """Let the encoder embed, one call at a time, until the condition holds: how many it took."""
    turns = 0
    while not condition():
        turns += 1
        encoder.waiting.clear()
        encoder.allow(1)
        await until(lambda: encoder.waiting.is_set() or condition())
    return turns


async def all_are_read(library: Library) -> None:
    """Whatever is embedded from here on is none of a reader's doing."""
    await until(lambda: len(library.indexer._intake) == 0)


async def idle(library: Library, store: Store) -> None:
    """Everything is indexed, and nothing is being learnt."""
    await settled(library, store)
    await until(lambda: library.indexer.calibrator.idle)


def done(library: Library, store: Store, name: str) -> Callable[[], bool]:
    return lambda: statuses(library, store).get(name) == "completed"


async def texts(library: Library, query: str) -> list[str]:
    store = await library.store("default")
    return [hit.chunk.text for hit in await library.search(store, query, 5)]


async def test_a_long_file_does_not_delay_a_short_one(
    library: Library, store: Store, encoder: Paced
) -> None:
    encoder.free.clear()
    await put(library, store, "long.md", LONG)
    await asyncio.to_thread(encoder.waiting.wait)
    await put(library, store, "short.md", b"# Short\n\nA page.\n\n# Two\n\nSections.")
    await all_are_read(library)
    turns = await stepwise(encoder, done(library, store, "short.md"))
    assert turns <= 12, "two batches of two steps each, and some that were under way"
    assert statuses(library, store)["long.md"] == "in_progress"
    encoder.free.set()
    await settled(library, store)
    assert library.catalog.count_chunks(store.id) == 3002
    assert list((library.blobs.path("x").parent.parent / "reading").iterdir()) == []
    assert_agreement(library)


async def test_a_rebuild_takes_turns_with_new_files_and_deletions(
    library: Library, store: Store, encoder: Paced
) -> None:
    await put(library, store, "long.md", LONG)
    for name in ("old.md", "deleted.md", "detached.md", "replaced.md"):
        await put(library, store, name, f"The text of {name}.".encode())
    await idle(library, store)
    ids = {
        library.catalog.file(file.file_id).filename: file.file_id
        for file in library.catalog.list_store_files(store.id)
    }
    encoder.free.clear()
    await library.indexer.rebuild(store)
    await asyncio.to_thread(encoder.waiting.wait)
    text = b"# New\n\nA file of this hour.\n\n# And\n\nMore of it."
    await put(library, store, "new.md", text)
    await put(library, store, "replaced.md", b"The other text of replaced.md.")
    await all_are_read(library)
    await stepwise(encoder, done(library, store, "new.md"))
    progress = library.indexer.progress(await library.store("default"))
    assert progress is not None
    assert progress.done < progress.total
    assert "A file of this hour." in await texts(library, "file of this hour")
    await library.delete_file(ids["deleted.md"])
    await library.detach(store, ids["detached.md"])
    assert not {"The text of deleted.md."} & set(await texts(library, "text of deleted.md"))
    encoder.free.set()
    await settled(library, store)
    assert (await library.store("default")).generation == 1
    assert "A file of this hour." in await texts(library, "file of this hour")
    assert "The other text of replaced.md." in await texts(library, "other text of replaced.md")
    assert_agreement(library)


async def test_a_long_file_that_a_swap_overtakes_is_indexed_into_the_new_generation(
    library: Library, store: Store, encoder: Paced
) -> None:
    await put(library, store, "old.md", b"Old text")
    await idle(library, store)
    encoder.free.clear()
    await put(library, store, "long.md", LONG)
    await asyncio.to_thread(encoder.waiting.wait)
    await library.indexer.rebuild(store)
    encoder.free.set()
    await settled(library, store)
    assert library.catalog.count_chunks(store.id) == 3001
    assert (await library.store("default")).generation == 1
    assert_agreement(library)


async def free_once_it_stops(library: Library, encoder: Paced) -> None:
    await until(lambda: library.indexer._halted)
    encoder.free.set()


@pytest.mark.parametrize("same", [True, False])
async def test_an_interrupted_rebuild_goes_on_unless_the_encoder_is_another(
    tmp_path: Path, same: bool
) -> None:
    first = Paced()
    async with opened_library(tmp_path, first, DirectReading()) as library:
        store = await library.store("default")
        for number in range(40):
            text = "\n\n".join(f"## {number}.{n}\n\nText." for n in range(40))
            await put(library, store, f"{number}.md", text.encode())
        await idle(library, store)
        first.free.clear()
        await library.indexer.rebuild(store)
        first.allow(4)
        made = lambda: library.indexer.progress(library.catalog.store(store.id))  # noqa: E731
        await until(lambda: (found := made()) is not None and found.done >= 1000)
        # It stops at the end of what it is about, which must come to an end.
        freeing = asyncio.create_task(free_once_it_stops(library, first))
    await freeing
    second = Paced() if same else Paced("other", 32)
    async with opened_library(tmp_path, second, DirectReading(), lambda _: first) as library:
        await settled(library, store)
        again = sum("Text." in text for text in second.embedded)
        assert again < 1000 if same else again >= 1600
        assert (await library.store("default")).embedding_model == ("fake" if same else "other")
        assert_agreement(library)


async def embedded_with(folder: Path, encoder: FakeEmbedding) -> None:
    """A store with a long file."""
    async with opened_library(folder, encoder, DirectReading()) as library:
        store = await library.store("default")
        await put(library, store, "long.md", LONG)
        await settled(library, store)


async def test_the_earlier_encoder_serves_until_the_store_is_re_embedded(tmp_path: Path) -> None:
    old, new = FakeEmbedding("one"), Paced("two", 32)
    await embedded_with(tmp_path, old)
    async with opened_library(tmp_path, new, DirectReading(), lambda _: old) as library:
        new.free.clear()
        store = await library.store("default")
        await library.indexer.rebuild(store)
        await asyncio.to_thread(new.waiting.wait)
        asked = "Of the long file, number 7."
        assert (await texts(library, asked))[0] == asked
        await put(library, store, "new.md", b"Written with both")
        await all_are_read(library)
        await stepwise(new, done(library, store, "new.md"))
        now = await library.store("default")
        assert (now.embedding_model, now.rebuilding) == ("one", True)
        vectors = library.retriever._vectors
        assert len(vectors.ids(now.collection)) == 3001  # of the earlier encoder, the new file too
        new.free.set()
        await settled(library, store)
        assert (await library.store("default")).embedding_model == "two"
        assert (await texts(library, "Written with both"))[0] == "Written with both"
        await until(lambda: library.indexer._encoders._earlier == {})  # soon after it has ended
        assert_agreement(library)


async def test_words_alone_where_the_earlier_encoder_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await embedded_with(tmp_path, FakeEmbedding("one"))
    new = Paced("two", 32)
    async with opened_library(tmp_path, new, DirectReading()) as library:
        new.free.clear()
        store = await library.store("default")
        await library.indexer.rebuild(store)
        await asyncio.to_thread(new.waiting.wait)
        await put(library, store, "new.md", b"Found by its words")
        await all_are_read(library)
        await stepwise(new, done(library, store, "new.md"))
        assert (await library.store("default")).rebuilding
        assert (await texts(library, "its words"))[0] == "Found by its words"
        assert "by words alone" in caplog.text
        new.free.set()
        await settled(library, store)
        assert_agreement(library)


@pytest.mark.parametrize("damage", ["deleted", "a file of it", "garbage in it"])
async def test_postings_restore_themselves(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
        store = await library.store("default")
        await put(library, store, "a.md", b"Some text")
        await settled(library, store)
    index = tmp_path / "lexical" / store.collection
    if damage == "deleted":
        shutil.rmtree(index)
    elif damage == "a file of it":
        (index / "meta.json").unlink()
    else:
        (index / "meta.json").write_text("garbage")
    with caplog.at_level(logging.WARNING):
        async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
            await settled(library, store)
            assert_agreement(library)
            assert await texts(library, "text") == ["Some text"]
    assert "made anew from the catalog" in caplog.text


async def test_a_rebuild_that_cannot_go_on_says_so(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_backend.knowledge.refills._RETRY_SECONDS", 0.2)
    await put(library, store, "a.md", b"Some text")
    await settled(library, store)
    real, broken = library.retriever._vectors.add, threading.Event()
    broken.set()

    def failing(*args: object) -> None:
        if broken.is_set():
            raise StorageBroken("Chroma is down.")
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(library.retriever._vectors, "add", failing)
    await library.indexer.rebuild(store)
    await until(lambda: library.indexer.problem == "Chroma is down.")
    rebuilding = await library.store("default")
    await until(lambda: (p := library.indexer.progress(rebuilding)) is not None and bool(p.error))
    broken.clear()
    await settled(library, store)
    assert (await library.store("default")).generation == 1
    assert_agreement(library)


class Held:
    """A call that goes on, once it has its answer, only when it may."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self.reached, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, *args: Any) -> Any:
        found = self._call(*args)
        self.reached.set()
        assert self.may_go_on.wait(60)
        return found


async def test_asked_for_while_a_rebuild_that_found_nothing_to_do_ends(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(library, store, "a.md", b"Something.")
    await idle(library, store)
    looking = Held(library.catalog.store)
    with monkeypatch.context() as patch:
        patch.setattr(library.catalog, "store", looking)
        library.indexer.resume_rebuild(store.id)  # as one does that another has just ended
        await asyncio.to_thread(looking.reached.wait)
    await library.indexer.rebuild(store)
    looking.may_go_on.set()
    await until(lambda: library.catalog.store(store.id).generation == store.generation + 1)
    await idle(library, store)


async def test_asked_for_while_another_is_about_to_end(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(library, store, "a.md", b"Something.")
    await idle(library, store)
    swapping = Held(library.catalog.swap_generation)
    monkeypatch.setattr(library.catalog, "swap_generation", swapping)
    await library.indexer.rebuild(store)
    await asyncio.to_thread(swapping.reached.wait)
    await library.indexer.rebuild(store)
    await asyncio.sleep(0)
    swapping.may_go_on.set()
    await until(lambda: library.catalog.store(store.id).generation == store.generation + 2)
    await idle(library, store)
