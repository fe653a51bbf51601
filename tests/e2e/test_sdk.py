"""OpenAI's Files and Vector Stores through the official SDK, as a user's program calls them.

A real backend process; every method of `client.files`, `client.vector_stores` and what hangs below
it, sync and async, with strict response validation: a field of another type than OpenAI's fails.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import FileObject, VectorStore, VectorStoreSearchResponse
from openai.types.vector_stores import VectorStoreFile, VectorStoreFileBatch

from tests.e2e.backend import PATIENCE, BackendProcess, backend

LEAVE = b"# Handbook\n\n## Leave\n\nEmployees have twelve days of annual leave.\n"
LUNCH = "# Sổ tay\n\n## Ăn trưa\n\nPhụ cấp ăn trưa là 45.000 đồng mỗi ngày.\n".encode()
STATIC: Any = {
    "type": "static",
    "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 50},
}
EXPIRES: Any = {"anchor": "created_at", "seconds": 3600}
UNUSED: Any = {"anchor": "last_active_at", "days": 30}
SOON: Any = {"poll_interval_ms": 20}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    with backend(tmp_path_factory.mktemp("sdk"), LLM_PROVIDER="extractive") as process:
        yield process


class Called:
    """Notes which methods of the SDK's resources were called."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def watching(self, resource: Any, name: str) -> Any:
        return _Watched(self, resource, name)


class _Watched:
    def __init__(self, called: Called, resource: Any, name: str) -> None:
        self._called, self._resource, self._name = called, resource, name

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._resource, method)
        if not inspect.isroutine(found):
            return self._called.watching(found, f"{self._name}.{method}")
        self._called.names.add(f"{self._name}.{method}")
        return found


def offered(client: OpenAI | AsyncOpenAI) -> set[str]:
    """Every public method of the four resources."""
    stores = client.vector_stores
    resources = {
        "files": client.files,
        "vector_stores": stores,
        "vector_stores.files": stores.files,
        "vector_stores.file_batches": stores.file_batches,
    }
    return {
        f"{name}.{method}"
        for name, resource in resources.items()
        for method, function in inspect.getmembers(type(resource), inspect.isfunction)
        if not method.startswith("_")
    }


@pytest.fixture
def client(running: BackendProcess) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{running.url}/v1",
        api_key="none",
        max_retries=0,
        timeout=PATIENCE,
        _strict_response_validation=True,
    ) as made:
        yield made


@pytest.fixture
async def async_client(running: BackendProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{running.url}/v1",
        api_key="none",
        max_retries=0,
        timeout=PATIENCE,
        _strict_response_validation=True,
    ) as made:
        yield made


def test_every_method(client: OpenAI, tmp_path: Path) -> None:
    called = Called()
    files = called.watching(client.files, "files")
    stores = called.watching(client.vector_stores, "vector_stores")
    _files(files, tmp_path)
    store = _stores(stores)
    leave, lunch = _store_files(files, stores, store)
    _batches(files, stores, store, [leave, lunch])
    _search(stores, store)
    assert stores.delete(store).deleted
    assert files.delete(leave).deleted
    assert offered(client) - called.names == set()


def _files(files: Any, folder: Path) -> None:
    path = folder / "leave.md"
    path.write_bytes(LEAVE)
    made: FileObject = files.create(file=path, purpose="assistants", expires_after=EXPIRES)
    assert (made.filename, made.bytes, made.status) == ("leave.md", len(LEAVE), "processed")
    assert made.expires_at == made.created_at + 3600
    assert files.retrieve(made.id) == made
    assert made in files.list(purpose="assistants", order="asc", limit=1)
    assert files.content(made.id).read() == LEAVE
    with pytest.warns(DeprecationWarning, match="content"):
        assert files.retrieve_content(made.id) == LEAVE.decode()
    with files.with_streaming_response.content(made.id) as response:
        assert b"".join(response.iter_bytes()) == LEAVE
    raw = files.with_raw_response.content(made.id, extra_headers={"range": "bytes=2-9"})
    assert (raw.status_code, raw.http_response.content) == (206, LEAVE[2:10])
    assert files.wait_for_processing(made.id) == made
    assert files.delete(made.id).object == "file"


def _stores(stores: Any) -> str:
    made: VectorStore = stores.create(
        name="sdk", description="of a test", metadata={"team": "a"}, expires_after=UNUSED
    )
    assert (made.status, made.file_counts.total) == ("completed", 0)
    assert stores.retrieve(made.id) == made
    assert stores.retrieve("sdk") == made  # our addition: names work as ids
    assert made.id in {store.id for store in stores.list(limit=1)}
    changed: VectorStore = stores.update(made.id, metadata={"team": "b"}, expires_after=None)
    assert (changed.name, changed.metadata, changed.expires_at) == ("sdk", {"team": "b"}, None)
    return made.id


def _store_files(files: Any, stores: Any, store: str) -> tuple[str, str]:
    leave = files.create(file=("leave.md", LEAVE), purpose="assistants")
    attached: VectorStoreFile = stores.files.create(
        store, file_id=leave.id, attributes={"kind": "leave", "year": 2024, "valid": True}
    )
    assert attached.vector_store_id == store
    done: VectorStoreFile = stores.files.poll(leave.id, vector_store_id=store)
    assert (done.status, done.last_error) == ("completed", None)
    assert done.attributes == {"kind": "leave", "year": 2024, "valid": True}
    again = stores.files.create_and_poll(leave.id, vector_store_id=store, max_wait_seconds=60)
    assert again == done
    assert stores.files.retrieve(leave.id, vector_store_id=store) == done
    uploaded = stores.files.upload(vector_store_id=store, file=("lunch.md", LUNCH))
    lunch: VectorStoreFile = stores.files.upload_and_poll(
        vector_store_id=store, file=("lunch.md", LUNCH), chunking_strategy=STATIC, **SOON
    )
    assert lunch.chunking_strategy is not None
    assert lunch.chunking_strategy.type == "static"
    assert lunch.chunking_strategy.static.max_chunk_size_tokens == 100
    listed = [f.id for f in stores.files.list(store, filter="completed", order="asc", limit=1)]
    assert {leave.id, lunch.id} <= set(listed) | {uploaded.id}
    parts = list(stores.files.content(leave.id, vector_store_id=store))
    assert parts[0].text == "Employees have twelve days of annual leave."
    changed = stores.files.update(leave.id, vector_store_id=store, attributes={"kind": "x"})
    assert changed.attributes == {"kind": "x"}
    gone = files.create(file=("gone.md", b"Gone."), purpose="assistants")
    stores.files.create_and_poll(gone.id, vector_store_id=store, **SOON)
    assert stores.files.delete(gone.id, vector_store_id=store).deleted
    return leave.id, lunch.id


def _batches(files: Any, stores: Any, store: str, ids: list[str]) -> None:
    batches = stores.file_batches
    made: VectorStoreFileBatch = batches.create(store, file_ids=ids, attributes={"kind": "leave"})
    assert batches.retrieve(made.id, vector_store_id=store).vector_store_id == store
    assert batches.poll(made.id, vector_store_id=store, **SOON).file_counts.completed == 2
    new = files.create(file=("new.md", b"A new file."), purpose="assistants").id
    done: VectorStoreFileBatch = batches.create_and_poll(
        store, files=[{"file_id": new, "attributes": {"n": 1}, "chunking_strategy": STATIC}]
    )
    assert (done.status, done.file_counts.total) == ("completed", 1)
    many = [(f"{n}.txt", f"Room {n} is on floor {n}.".encode()) for n in range(12)]
    done = batches.upload_and_poll(store, files=many, file_ids=[new], **SOON)
    assert (done.status, done.file_counts.completed) == ("completed", 13)
    listed: list[VectorStoreFile] = list(
        batches.list_files(done.id, vector_store_id=store, filter="completed", limit=5)
    )
    assert len({file.id for file in listed}) == 13
    assert batches.cancel(done.id, vector_store_id=store).status == "completed"


def _search(stores: Any, store: str) -> None:
    page = stores.search(
        store,
        query="Could you please tell me how many days of annual leave there are?",
        rewrite_query=True,
        max_num_results=3,
        ranking_options={"ranker": "auto", "score_threshold": 0.1},
        filters={
            "type": "and",
            "filters": [
                {"type": "eq", "key": "kind", "value": "leave"},
                {"type": "or", "filters": [{"type": "ne", "key": "no", "value": 1}]},
            ],
        },
    )
    best: VectorStoreSearchResponse = page.data[0]
    assert (best.filename, best.attributes) == ("leave.md", {"kind": "leave"})
    assert best.content[0].text == "Employees have twelve days of annual leave."
    assert 0 < best.score <= 1
    assert best.to_dict()["heading_path"] == ["Handbook", "Leave"]
    [first, *_] = stores.search(store, query=["phụ cấp ăn trưa", "an trua"])
    assert first.filename == "lunch.md"


async def test_every_method_async(async_client: AsyncOpenAI) -> None:
    called = Called()
    files = called.watching(async_client.files, "files")
    stores = called.watching(async_client.vector_stores, "vector_stores")
    store: VectorStore = await stores.create(name="async")
    made: FileObject = await files.create(file=("leave.md", LEAVE), purpose="assistants")
    assert await files.retrieve(made.id) == made
    assert made.id in [file.id async for file in files.list()]
    assert (await files.content(made.id)).read() == LEAVE
    with pytest.warns(DeprecationWarning, match="content"):
        assert await files.retrieve_content(made.id) == LEAVE.decode()
    async with files.with_streaming_response.content(made.id) as response:
        assert await response.read() == LEAVE
    assert await files.wait_for_processing(made.id) == made
    await _async_stores(stores, store.id, made.id)
    await _async_batches(stores, store.id, made.id)
    found = [hit async for hit in stores.search(store.id, query="annual leave")]
    assert found[0].filename == "leave.md"
    assert (await stores.files.delete(made.id, vector_store_id=store.id)).deleted
    assert (await stores.delete(store.id)).deleted
    assert (await files.delete(made.id)).deleted
    assert offered(async_client) - called.names == set()


async def _async_stores(stores: Any, store: str, file_id: str) -> None:
    assert (await stores.retrieve(store)).name == "async"
    assert store in [item.id async for item in stores.list()]
    assert (await stores.update(store, name="renamed")).name == "renamed"
    await stores.files.create(store, file_id=file_id)
    done: VectorStoreFile = await stores.files.poll(file_id, vector_store_id=store, **SOON)
    assert done.status == "completed"
    assert await stores.files.create_and_poll(file_id, vector_store_id=store) == done
    assert await stores.files.retrieve(file_id, vector_store_id=store) == done
    await stores.files.upload(vector_store_id=store, file=("lunch.md", LUNCH))
    lunch = await stores.files.upload_and_poll(
        vector_store_id=store, file=("lunch2.md", LUNCH), **SOON
    )
    assert lunch.status == "completed"
    assert lunch.id in [file.id async for file in stores.files.list(store, limit=1)]
    parts = [part async for part in stores.files.content(file_id, vector_store_id=store)]
    assert parts[0].text is not None
    changed = await stores.files.update(file_id, vector_store_id=store, attributes={"k": 1})
    assert changed.attributes == {"k": 1}


async def _async_batches(stores: Any, store: str, file_id: str) -> None:
    batches = stores.file_batches
    made: VectorStoreFileBatch = await batches.create(store, file_ids=[file_id])
    assert (await batches.retrieve(made.id, vector_store_id=store)).file_counts.total == 1
    assert (await batches.poll(made.id, vector_store_id=store, **SOON)).status == "completed"
    assert (await batches.create_and_poll(store, file_ids=[file_id])).status == "completed"
    files = [(f"{n}.txt", f"Desk {n}.".encode()) for n in range(3)]
    done = await batches.upload_and_poll(store, files=files, **SOON)
    assert done.file_counts.completed == 3
    listed = [file async for file in batches.list_files(done.id, vector_store_id=store, limit=2)]
    assert len(listed) == 3
    assert (await batches.cancel(done.id, vector_store_id=store)).status == "completed"


def test_a_store_is_rebuilt_with_the_same_files(client: OpenAI) -> None:
    """What OpenAI's documentation does with a store that has expired."""
    first = client.vector_stores.create()
    files: Any = [(f"{n}.md", f"Shelf {n} holds books.".encode()) for n in range(25)]
    client.vector_stores.file_batches.upload_and_poll(first.id, files=files, **SOON)
    second = client.vector_stores.create()
    ids = [file.id for file in client.vector_stores.files.list(first.id)]
    done = client.vector_stores.file_batches.create_and_poll(second.id, file_ids=ids, **SOON)
    assert done.file_counts.completed == 25
    for file in client.vector_stores.files.list(first.id):  # deleted while it is listed
        client.vector_stores.files.delete(file.id, vector_store_id=first.id)
    assert client.vector_stores.retrieve(first.id).file_counts.total == 0
    assert client.vector_stores.retrieve(second.id).file_counts.total == 25
