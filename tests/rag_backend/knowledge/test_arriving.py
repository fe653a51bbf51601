"""A backend that comes to the others: what it shows at once, and what it leaves alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from rag_backend.app import create_app
from rag_backend.knowledge.followed import FollowedIndex
from rag_backend.knowledge.library import Library
from rag_backend.settings import Settings
from tests.rag_backend.knowledge import storage as places
from tests.rag_backend.knowledge.building import DirectReading, opened_library, put, settled
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding
from tests.servers import Missing, chroma, postgres


@pytest.fixture(autouse=True)
def _on_servers(servers: tuple[str, str]) -> Iterator[None]:
    with places.on(servers):
        yield


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set, no word index follows the catalog."""
    opened = threading.Event()
    opened.set()
    follow, compare = FollowedIndex.follow, FollowedIndex.compare

    def follow_then(self: FollowedIndex, store_id: str, after: int) -> bool:
        assert opened.wait(60)
        return follow(self, store_id, after)

    def compare_then(self: FollowedIndex, store_id: str) -> None:
        assert opened.wait(60)
        compare(self, store_id)

    monkeypatch.setattr(FollowedIndex, "follow", follow_then)
    monkeypatch.setattr(FollowedIndex, "compare", compare_then)
    yield opened
    opened.set()


def backend(tmp_path: Path, name: str) -> AbstractAsyncContextManager[Library]:
    return opened_library(tmp_path / name, FakeEmbedding(), DirectReading(), shared=tmp_path)


async def test_a_new_backend_serves_before_its_word_index_is_whole(
    tmp_path: Path, gate: threading.Event
) -> None:
    async with backend(tmp_path, "a") as a:
        store = await a.store("default")
        await put(a, store, "a.md", b"Lunch is at noon")
        await settled(a, store)
        gate.clear()
        async with backend(tmp_path, "b") as b:
            assert "being made from the catalog" in (b.arriving or "")
            assert not b.is_complete(await b.store("default"))
            hits = await b.search(store, "Lunch is at noon", 3)  # by its vector
            assert [hit.chunk.text for hit in hits] == ["Lunch is at noon"]
            alive = b.catalog.count_backends()
            assert alive == 2  # and the others see it
            file = await put(b, store, "b.md", b"Dinner is at eight")
            gate.set()
            await settled(b, store)
            assert b.arriving is None
            assert b.is_complete(await b.store("default"))
            assert b.catalog.store_file(store.id, file.file_id).status == "completed"


async def test_stopped_while_its_word_index_is_made(tmp_path: Path, gate: threading.Event) -> None:
    async with backend(tmp_path, "a") as a:
        store = await a.store("default")
        await put(a, store, "a.md", b"Lunch is at noon")
        await settled(a, store)
    gate.clear()
    async with backend(tmp_path, "b") as b:
        assert b.arriving
        asyncio.get_running_loop().call_later(0.05, gate.set)
    async with backend(tmp_path, "b") as b:
        await settled(b, store)
        assert b.arriving is None


# The application


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client,
    ):
        await app.state.parts.encoder.wait()
        yield app, client


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """DATABASE_URL and CHROMA_URL of servers that nobody else uses."""
    try:
        with postgres() as database, chroma(tmp_path_factory.mktemp("chroma")) as vectors:
            yield database.url, vectors
    except Missing as reason:
        pytest.skip(str(reason))


def settings(folder: Path, servers: tuple[str, str] | None = None) -> Settings:
    database, vectors = servers or (None, None)
    return Settings.model_validate(
        {
            "data_dir": folder,
            "llm_provider": "extractive",
            "database_url": database,
            "chroma_url": vectors,
        }
    )


async def test_health_answers_at_once_and_says_so(
    tmp_path: Path, gate: threading.Event, own_servers: tuple[str, str]
) -> None:
    gate.clear()
    async with running(settings(tmp_path / "new", own_servers)) as (app, client):
        early = await client.get("/health")
        assert (early.status_code, early.json()["status"]) == (200, "starting")
        assert "being made from the catalog" in early.json()["storage"]["arriving"]
        assert early.json()["encoder"]["ready"]
        found = await client.post("/v1/vector_stores/default/search", json={"query": "lunch"})
        assert found.status_code == 200
        gate.set()
        async with asyncio.timeout(60):
            while app.state.parts.library.arriving is not None:
                await asyncio.sleep(0.01)
        assert (await client.get("/health")).json()["status"] == "ok"
        assert "arriving" not in (await client.get("/health")).json()["storage"]


async def test_postgresql_leaves_the_folders_of_sqlite_alone(
    tmp_path: Path, gate: threading.Event, own_servers: tuple[str, str]
) -> None:
    data = tmp_path / "data"
    async with running(settings(data)) as (app, client):
        upload = {"file": ("a.md", b"Lunch is at noon")}
        sent = await client.post("/v1/files", files=upload, data={"purpose": "user_data"})
        store = await app.state.parts.library.store("default")
        await app.state.parts.library.attach(store, sent.json()["id"], {})
        await settled(app.state.parts.library, store)
    before = contents(data)
    assert any(path.parts[0] == "files" for path in before)
    assert any(path.parts[0] == "lexical" for path in before)
    async with running(settings(data, own_servers)) as (app, client):
        assert (await client.get(f"/v1/files/{sent.json()['id']}")).status_code == 404
        upload = {"file": ("b.md", b"Dinner is at eight")}
        await client.post("/v1/files", files=upload, data={"purpose": "user_data"})
        assert {path.name for path in data.iterdir()} >= {"shared-files", "shared-lexical"}
    after = contents(data)
    assert {path: after.get(path) for path in before} == before
    async with running(settings(data)) as (app, client):
        content = await client.get(f"/v1/files/{sent.json()['id']}/content")
        assert content.content == b"Lunch is at noon"


def contents(data: Path) -> dict[Path, bytes]:
    """What SQLite's mode keeps, but for databases, which are written to when they are opened."""
    return {
        path.relative_to(data): path.read_bytes()
        for folder in ("files", "lexical")
        for path in (data / folder).rglob("*")
        if path.is_file()
    }
