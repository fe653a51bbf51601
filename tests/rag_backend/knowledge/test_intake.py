"""Readers: short files pass long ones, and nobody reads more than may wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ingest.chunking import StaticSize
from ingest.document import Chunk
from ingest.errors import UnreadableFile
from rag_backend.knowledge import intake
from rag_backend.knowledge.encoder import EncoderLoader
from rag_backend.knowledge.encoders import Encoders
from rag_backend.knowledge.finishing import Threads
from rag_backend.knowledge.intake import Intake, Room
from rag_backend.knowledge.jobs import Job, Jobs
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.spooling import Chunks, Held
from tests.rag_backend.knowledge.building import DirectReading, build_library, put
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding
from tests.rag_backend.knowledge.test_encoders import refuses


class Reading(DirectReading):
    """Long files are read when the test lets it; one called `bad` cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def read(
        self,
        path: Path,
        filename: str,
        tokenizer_file: Path | None,
        max_tokens: int,
        static: StaticSize | None = None,
    ) -> Chunks:
        """See ReadingPool."""
        if filename.startswith("long"):
            await self.gate.wait()
        if filename.startswith("bad"):
            raise UnreadableFile("It is damaged.")
        return await super().read(path, filename, tokenizer_file, max_tokens, static)


class Received:
    """What comes of it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.rejected: list[str] = []
        self.dropped: list[Job] = []

    def receive(self, job: Job) -> None:
        """See Receiver."""
        self.jobs.append(job)

    async def reject(self, job: Job, error: Exception | None) -> None:
        """See Receiver."""
        self.rejected.append(str(error))

    def drop(self, job: Job) -> None:
        """See Receiver."""
        self.dropped.append(job)

    async def lose(self, job: Job) -> None:
        """See Receiver."""
        raise AssertionError(job.key)


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    """Not started: nobody but the test reads."""
    built = build_library(tmp_path, EncoderLoader(FakeEmbedding), DirectReading())
    built.catalog.create_store("default", {})
    yield built
    built.retriever.close()
    built.catalog.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_short_files_pass_long_ones(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "LARGE", 1000)
    store = await library.store("default")
    loader, reading, received = EncoderLoader(FakeEmbedding), Reading(), Received()
    loader.start()
    jobs, threads = Jobs(), Threads(2)

    def close(job: Job) -> None:  # as the indexer does with what there is nothing to do for
        jobs.close(job)

    received.drop = close  # type: ignore[method-assign]
    tested = Intake(
        *(library.catalog, library.blobs, reading, Encoders(loader, refuses), jobs, threads),
        lambda _store: None,
    )
    for name in ("long1", "long2", "long3", "short1", "bad", "short2"):
        text = "Many words. " * (200 if "long" in name else 1)
        file = await put(library, store, f"{name}.md", text.encode())
        tested.submit((store.id, file.file_id))
        tested.submit((store.id, file.file_id))  # asked for twice
    running = asyncio.create_task(tested.run(received, readers=2))

    def names() -> list[str]:
        return [library.catalog.file(job.file_id).filename for job in received.jobs]

    await until(lambda: len(names()) == 2)
    assert names() == ["short1.md", "short2.md"]
    await until(lambda: received.rejected == ["It is damaged."])
    assert len(tested) == 2  # one of the long ones is being read
    reading.gate.set()
    await until(lambda: len(names()) == 5)
    assert set(names()[2:]) == {"long1.md", "long2.md", "long3.md"}
    assert len(tested) == 0
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await loader.stop()
    threads.close()


def waiting(number: int) -> Job:
    return Job("store", "file", chunks=Held([Chunk("x", 0, 1)] * number), size=number)


async def test_no_more_is_read_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "WAITING_CHUNKS", 10)
    room = Room()
    first, second, third = waiting(8), waiting(30), waiting(1)
    await room.enter(first)
    await room.enter(second)  # there was room
    entering = asyncio.create_task(room.enter(third))
    for over in (first, first):
        room.leave(over)
        await asyncio.sleep(0)
        assert not entering.done()
    room.leave(second)
    await entering
    room.leave(third)
    assert room._chunks == room._characters == 0


def test_a_file_is_under_way_once() -> None:
    jobs = Jobs()
    job = jobs.open(("store", "file"))
    assert job is not None
    assert jobs.open(("store", "file")) is None
    assert jobs.close(job), "it is looked at again"
    other = jobs.open(("store", "file"))
    assert other is not None
    assert jobs.close(job)
    assert len(jobs) == 1
    jobs.outdate({("store", "file"), ("store", "nothing")})
    assert jobs.ended() == [other]
    assert jobs.close(other)
    assert len(jobs) == 0
