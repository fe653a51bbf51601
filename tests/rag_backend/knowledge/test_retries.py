"""Files and stores that an unexpected error, or a server that is away, has stopped."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from rag_backend.errors import StorageAway
from rag_backend.knowledge import indexer as module
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store
from rag_backend.knowledge.retries import TRIES
from tests.rag_backend.knowledge.building import (
    DirectReading,
    assert_agreement,
    opened_library,
    put,
    settled,
    statuses,
)
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding


class Bug(Exception):
    """What nobody expected."""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_DEFECT_SECONDS", "_PAUSE_SECONDS", "_RETRY_SECONDS"):
        monkeypatch.setattr(module, name, 0)
    for name in ("_RETRY_SECONDS", "_AWAY_SECONDS"):
        monkeypatch.setattr(f"rag_backend.knowledge.refills.{name}", 0.01)


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as opened:
        yield opened


@pytest.fixture
async def store(library: Library) -> Store:
    return await library.store("default")


def breaking(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    method: str,
    times: int,
    error: Callable[[], Exception] = Bug,
) -> list[int]:
    """Let a method fail so often; the list has an item for each time."""
    real, failed = getattr(owner, method), list[int]()

    def failing(*args: Any, **kwargs: Any) -> Any:
        if len(failed) < times:
            failed.append(1)
            raise error()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, method, failing)
    return failed


STAGES = [
    (lambda library: library.indexer._writer, "write"),
    (lambda library: library.indexer._writer, "sweep"),
    (lambda library: library.indexer._vectoriser, "add_vectors"),
    (lambda library: library.indexer._intake.room, "enter"),
]


@pytest.mark.parametrize(("owner", "method"), STAGES)
async def test_a_bug_that_passes_costs_nothing(
    library: Library,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    owner: Callable[[Library], object],
    method: str,
) -> None:
    await put(library, store, "before.md", b"Indexed before")
    await settled(library, store)
    failed = breaking(monkeypatch, owner(library), method, TRIES - 1)
    for number in range(5):
        await put(library, store, f"{number}.md", f"# One\n\nText {number}.\n\n# Two".encode())
    await settled(library, store)
    assert failed
    assert set(statuses(library, store).values()) == {"completed"}
    assert library.indexer.pending == 0
    assert_agreement(library)


@pytest.mark.parametrize(("owner", "method"), [STAGES[0], STAGES[2], STAGES[3]])
async def test_a_bug_that_stays_fails_the_file_with_a_reason(
    library: Library,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    owner: Callable[[Library], object],
    method: str,
) -> None:
    with monkeypatch.context() as broken:
        failed = breaking(broken, owner(library), method, TRIES)
        file = await put(library, store, "a.md", b"Some text")
        async with asyncio.timeout(30):
            while statuses(library, store) != {"a.md": "failed"}:
                await asyncio.sleep(0.01)
    found = library.catalog.store_file(store.id, file.file_id)
    assert len(failed) == TRIES
    assert found.error_code == "server_error"
    assert f"{TRIES} times" in (found.error_message or "")
    await settled(library, store)
    assert library.indexer.pending == 0
    await library.attach(store, file.file_id, {})
    await settled(library, store)
    assert statuses(library, store) == {"a.md": "completed"}
    assert_agreement(library)


async def test_chunks_that_cannot_be_taken_fail_their_own_file(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = library.indexer._intake._fill

    async def fill(job: Any, attached: Any, file: Any, store: Any) -> None:
        await real(job, attached, file, store)
        if file.filename == "bad.md":

            def texts(_start: int, _stop: int) -> list[str]:
                raise Bug

            job.texts = texts

    monkeypatch.setattr(library.indexer._intake, "_fill", fill)
    for name in ("a.md", "bad.md", "b.md"):
        await put(library, store, name, b"Some text")
    await settled(library, store)
    assert statuses(library, store) == {
        "a.md": "completed",
        "bad.md": "failed",
        "b.md": "completed",
    }
    assert_agreement(library)


@pytest.mark.parametrize("times", [1, 2 * TRIES])
@pytest.mark.parametrize("method", ["write", "finish", "sweep"])
async def test_a_rebuild_goes_on_after_a_bug(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch, method: str, times: int
) -> None:
    await put(library, store, "a.md", b"Some text")
    await settled(library, store)
    failed = breaking(monkeypatch, library.indexer._writer, method, times)
    await library.indexer.rebuild(store)
    await settled(library, store)
    assert len(failed) == times
    assert (await library.store("default")).generation == 1
    assert library.indexer.problem is None
    assert_agreement(library)


# Repairs


async def filled(tmp_path: Path) -> None:
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
        store = await library.store("default")
        for number in range(5):
            await put(library, store, f"{number}.md", f"Text number {number}".encode())
        await settled(library, store)


def away() -> Exception:
    return StorageAway("The server does not answer now.")


@pytest.mark.parametrize("lost", ["chroma", "lexical"])
@pytest.mark.parametrize("stage", ["begin_repair", "write", "finish", "list_stores"])
@pytest.mark.parametrize("error", [away, Bug])
async def test_a_repair_that_is_interrupted_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
    stage: str,
    error: Callable[[], Exception],
) -> None:
    await filled(tmp_path)
    shutil.rmtree(tmp_path / lost)
    failed: list[int] = []
    if stage == "begin_repair":
        owner: Any = "rag_backend.knowledge.recovery"
        failed = breaking(monkeypatch, __import__(owner, fromlist="x"), stage, 2, error)
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
        if stage in ("write", "finish"):
            failed = breaking(monkeypatch, library.indexer._writer, stage, 2, error)
        elif stage == "list_stores":
            error = away  # what a catalog raises
            failed = breaking(monkeypatch, library.catalog, stage, 1, error)
        store = await library.store("default")
        if stage != "list_stores":
            await settled(library, store)
            assert failed
        else:
            async with asyncio.timeout(30):
                while not failed:
                    await asyncio.sleep(0.01)
            await settled(library, store)
        assert library.indexer.problem is None
        assert library.indexer.progress(store) is None
        assert_agreement(library)
