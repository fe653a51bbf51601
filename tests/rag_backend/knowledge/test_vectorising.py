"""Slices to vectors: what one text, one file or a server's absence costs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from rag_backend.errors import (
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from rag_backend.knowledge import vectorising as module
from rag_backend.knowledge.embedding import Kind, Vectors, probe
from rag_backend.knowledge.encoder import Encoder
from rag_backend.knowledge.finishing import Threads
from rag_backend.knowledge.jobs import Job, Slice
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store
from rag_backend.knowledge.vectorising import Vectoriser
from tests.rag_backend.knowledge.building import (
    DirectReading,
    assert_agreement,
    opened_library,
    put,
    settled,
    statuses,
)
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding


class Server(FakeEmbedding):
    """What an embedding server does, as far as the caller sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.away: UpstreamError | None = None
        self.poison: dict[str, Exception] = {}
        self.asked = 0
        self.deadly: str | None = None
        self.dies = 0
        self.failed = threading.Event()
        self._down = False

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """See EmbeddingProvider."""
        self.asked += 1
        if self.away is not None:
            self.failed.set()
            raise self.away
        if self._down:  # it is back by the next time
            self._down = False
            raise CRASHED
        if self.deadly is not None and any(self.deadly in text for text in texts):
            self.dies += 1
            self._down = True
            raise UpstreamUnavailable("It cannot be reached: start it.")
        for word, error in self.poison.items():
            if any(word in text for text in texts):
                raise error
        return super().embed(texts, kind)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AWAY_SECONDS", 0.01)


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(2, "test")
    yield made
    made.close()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def encoder(server: Server) -> Encoder:
    return Encoder(server, probe(server))


def slices_of(encoder: Encoder, *texts: str) -> list[Slice]:
    return [
        Slice(Job("vs_1", f"file-{n}", encoder=encoder), 0, 1, [text])
        for n, text in enumerate(texts)
    ]


REFUSED = UpstreamRefused("It refused the request (400).", status=400)
REVOKED = UpstreamRefused("It refused the key (401).", status=401)
CRASHED = UpstreamError("It failed (500).")


@pytest.mark.parametrize("error", [REFUSED, CRASHED, ZeroDivisionError()])
async def test_one_text_that_cannot_be_embedded_costs_its_own_slice(
    threads: Threads, server: Server, encoder: Encoder, error: Exception
) -> None:
    server.poison["poison"] = error
    parts = slices_of(encoder, "a", "poison", "b")
    await Vectoriser(threads).add_vectors(parts)
    assert [part.error for part in parts] == [None, error, None]
    assert [part.vectors is not None for part in parts] == [True, False, True]


PASSING = [
    UpstreamUnavailable("It cannot be reached: start it."),
    CRASHED,
    UpstreamLimited("It has reached its limit (429)."),
]


@pytest.mark.parametrize("away", PASSING)
async def test_a_server_that_is_away_is_waited_for(
    threads: Threads,
    server: Server,
    encoder: Encoder,
    away: UpstreamError,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.away = away
    vectoriser, parts = Vectoriser(threads), slices_of(encoder, "a", "b")
    with caplog.at_level(logging.INFO):
        work = asyncio.create_task(vectoriser.add_vectors(parts))
        async with asyncio.timeout(30):
            while server.asked < 5:
                await asyncio.sleep(0.005)
        assert str(away) in (vectoriser.problem or "")
        server.away = None
        await work
    assert [part.error for part in parts] == [None, None]
    assert all(part.vectors is not None for part in parts)
    assert vectoriser.problem is None
    assert caplog.text.count("documents wait for") == 1
    assert "answers again" in caplog.text


async def test_a_text_that_the_server_dies_of_costs_its_own_slice(
    threads: Threads, server: Server, encoder: Encoder
) -> None:
    server.deadly = "deadly"
    vectoriser, parts = Vectoriser(threads), slices_of(encoder, "a", "deadly", "b")
    async with asyncio.timeout(30):
        await vectoriser.add_vectors(parts)
    assert [part.vectors is not None for part in parts] == [True, False, True]
    assert [part.error is None for part in parts] == [True, False, True]
    assert str(parts[1].error).startswith("The embedding server was away after each of 5 attempts")
    assert server.dies == 3 + 5
    assert vectoriser.problem is None


async def test_a_batch_that_is_too_much_for_the_server_is_embedded_text_by_text(
    threads: Threads, server: Server, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, busy = server.embed, threading.Event()

    def slow(texts: Sequence[str], kind: Kind) -> Vectors:
        if busy.is_set() or len(texts) > 1:
            (busy.clear if busy.is_set() else busy.set)()
            raise UpstreamTimeout("It did not answer within 60 s.")
        return real(texts, kind)

    monkeypatch.setattr(server, "embed", slow)
    parts = slices_of(encoder, "a", "b")
    async with asyncio.timeout(30):
        await Vectoriser(threads).add_vectors(parts)
    assert [part.error for part in parts] == [None, None]
    assert all(part.vectors is not None for part in parts)


async def test_what_is_removed_meanwhile_is_not_asked_for(
    threads: Threads, server: Server, encoder: Encoder
) -> None:
    server.away = PASSING[0]
    vectoriser, parts = Vectoriser(threads), slices_of(encoder, "a", "poison")
    server.poison["poison"] = AssertionError("asked for")  # type: ignore[assignment]
    work = asyncio.create_task(vectoriser.add_vectors(parts))
    await asyncio.to_thread(server.failed.wait)
    parts[1].job.ended = True
    server.away = None
    await work
    assert parts[0].vectors is not None
    assert parts[1].vectors is None


class Target:
    """What is being rebuilt."""

    collection = "vs_1-1"

    def written(self, file_id: str, chunks: int) -> None:
        """Nothing."""


@pytest.mark.parametrize("error", [REFUSED, CRASHED])
async def test_a_rebuild_goes_on_without_the_vectors_of_what_is_refused(
    threads: Threads, server: Server, encoder: Encoder, error: UpstreamError
) -> None:
    server.poison["poison"] = error
    [part] = slices_of(encoder, "poison")
    part.job.refill = Target()
    await Vectoriser(threads).add_vectors([part])
    assert (part.error, part.vectors) == (None, None)


async def test_a_rebuild_stops_where_the_server_refuses_everything(
    threads: Threads, server: Server, encoder: Encoder
) -> None:
    server.away = REVOKED
    [part] = slices_of(encoder, "a")
    part.job.refill = Target()
    await Vectoriser(threads).add_vectors([part])
    assert part.error is REVOKED


# In a library


@pytest.fixture
async def library(tmp_path: Path, server: Server) -> AsyncIterator[Library]:
    async with opened_library(tmp_path, server, DirectReading()) as opened:
        await opened.retriever._encoders.present.wait()
        yield opened


@pytest.fixture
async def store(library: Library) -> Store:
    return await library.store("default")


@pytest.mark.parametrize("error", [REFUSED, CRASHED])
async def test_a_refused_text_fails_its_own_file(
    library: Library, store: Store, server: Server, error: UpstreamError
) -> None:
    server.poison["poison"] = error
    for name, text in (("a", b"One text"), ("bad", b"Some poison"), ("b", b"Another text")):
        await put(library, store, f"{name}.md", text)
    await settled(library, store)
    assert statuses(library, store) == {
        "a.md": "completed",
        "bad.md": "failed",
        "b.md": "completed",
    }
    [failed] = library.catalog.list_store_files(store.id, "failed")
    assert failed.error_message == str(error)
    assert_agreement(library)


async def test_files_wait_for_a_server_that_goes_away(
    library: Library, store: Store, server: Server
) -> None:
    server.away = PASSING[0]
    for number in range(20):
        await put(library, store, f"{number}.md", f"Text {number}".encode())
    async with asyncio.timeout(30):
        while library.indexer.problem is None:
            await asyncio.sleep(0.005)
    assert set(statuses(library, store).values()) == {"in_progress"}
    assert library.indexer.pending == 20
    assert "cannot be reached: start it" in (library.indexer.problem or "")
    server.away = None
    await settled(library, store)
    assert set(statuses(library, store).values()) == {"completed"}
    assert library.indexer.problem is None
    assert_agreement(library)


async def test_a_rebuild_with_a_revoked_key_keeps_the_vectors_and_goes_on_later(
    library: Library, store: Store, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_backend.knowledge.refills._RETRY_SECONDS", 0.05)
    for number in range(3):
        await put(library, store, f"{number}.md", f"Text {number}".encode())
    await settled(library, store)
    server.away = REVOKED
    await library.indexer.rebuild(store)
    async with asyncio.timeout(30):
        while library.indexer.problem != str(REVOKED):
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.2)  # it is tried again, in vain
    now = await library.store("default")
    assert (now.generation, now.rebuilding) == (0, True)
    assert library.retriever._vectors.count(now.collection) == 3
    server.away = None
    await settled(library, store)
    assert (await library.store("default")).generation == 1
    assert_agreement(library)


@pytest.mark.parametrize("moment", ["away", "stopping"])
async def test_a_stop_marks_nothing_failed(tmp_path: Path, moment: str) -> None:
    """Whatever a job meets once the backend is told to stop, it is resumed at the next start."""
    server = Server()
    async with opened_library(tmp_path, server, DirectReading()) as library:
        store = await library.store("default")
        await library.retriever._encoders.present.wait()
        if moment == "stopping":
            library.indexer.halt()
            server.poison["Text"] = REFUSED
            jobs = [(await put(library, store, f"{n}.md", b"Text")).file_id for n in range(3)]
            for file_id in jobs:  # what a reader, or the writer, had in hand
                opened = library.indexer._jobs.open((store.id, file_id))
                assert opened is not None
                await library.indexer.reject(opened, REFUSED)
        else:
            server.away = PASSING[0]
            for number in range(3):
                await put(library, store, f"{number}.md", b"Text")
            await asyncio.to_thread(server.failed.wait)
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
        await settled(library, store)
        assert set(statuses(library, store).values()) == {"completed"}
        assert_agreement(library)
