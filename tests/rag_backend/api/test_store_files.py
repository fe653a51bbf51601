"""What is in a store, one file at a time and in batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.rag_backend.api.serving import PATIENCE, Running
from tests.rag_backend.api.test_refusals import refused

WORDS = " ".join(f"word{n}" for n in range(400))
STATIC: Any = {
    "type": "static",
    "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400},
}
POLL: Any = {"poll_interval_ms": 20}


@pytest.fixture
def http(backend: Running) -> Iterator[httpx.Client]:
    with backend.http() as client:
        yield client


@pytest.fixture
def client(backend: Running) -> Iterator[OpenAI]:
    with backend.sdk() as client:
        yield client


@pytest.fixture
def store(client: OpenAI) -> Iterator[str]:
    """A store of the test's own; everything in it goes at the end."""
    made = client.vector_stores.create().id
    yield made
    for file in client.vector_stores.files.list(made, limit=100):
        client.files.delete(file.id)
    client.vector_stores.delete(made)


def uploaded(client: OpenAI, name: str, text: str) -> str:
    return client.files.create(file=(name, text.encode()), purpose="assistants").id


def test_windows_of_a_fixed_size(client: OpenAI, http: httpx.Client, store: str) -> None:
    text = f"# Words\n\n{WORDS}\n"
    file = uploaded(client, "words.md", text)
    done = client.vector_stores.files.create_and_poll(
        file, vector_store_id=store, chunking_strategy=STATIC, **POLL
    )
    assert done.status == "completed"
    assert done.chunking_strategy is not None
    assert done.chunking_strategy.to_dict() == STATIC | {
        "effective": {"max_chunk_size_tokens": 254, "chunk_overlap_tokens": 127}
    }
    parts = http.get(f"/v1/vector_stores/{store}/files/{file}/content").json()["data"]
    assert len(parts) > 2
    assert parts[1]["start"] < parts[0]["end"]  # they overlap
    assert parts[1]["heading_path"] == ["Words"]
    assert parts[-1]["text"].endswith("word399")
    again = client.vector_stores.files.create(store, file_id=file, chunking_strategy=STATIC)
    assert again.status == "completed"
    with pytest.raises(openai.ConflictError, match="upload it again under the same name"):
        client.vector_stores.files.create(store, file_id=file, chunking_strategy={"type": "auto"})


def test_attributes(client: OpenAI, http: httpx.Client, store: str) -> None:
    file = uploaded(client, "a.md", "The red car.")
    given: Any = {"text": "é", "number": 1, "share": 0.5, "yes": True}
    done = client.vector_stores.files.create_and_poll(
        file, vector_store_id=store, attributes=given, **POLL
    )
    assert done.attributes == given
    assert done.attributes["yes"] is True
    again = client.vector_stores.files.create(store, file_id=file, attributes={"k": "v"})
    assert (again.status, again.attributes) == ("completed", {"k": "v"})
    assert client.vector_stores.files.create(store, file_id=file).attributes == {"k": "v"}
    update = client.vector_stores.files.update
    assert update(file, vector_store_id=store, attributes={"n": 2}).attributes == {"n": 2}
    assert update(file, vector_store_id=store, attributes=None).attributes == {}
    shown = http.get(f"/v1/vector_stores/{store}/files/{file}")
    assert shown.headers["openai-poll-after-ms"].isdigit()


def test_a_batch(client: OpenAI, http: httpx.Client, store: str) -> None:
    texts = {f"{n}.md": f"The number is {n}." for n in range(5)}
    ids = [uploaded(client, name, text) for name, text in texts.items()]
    batches = client.vector_stores.file_batches
    files: Any = [
        {"file_id": ids[0], "attributes": {"first": True}},
        {"file_id": ids[1], "chunking_strategy": STATIC},
        *({"file_id": file_id} for file_id in ids[2:]),
    ]
    done = batches.create_and_poll(store, files=files, **POLL)
    assert (done.status, done.file_counts.completed, done.file_counts.total) == ("completed", 5, 5)
    listed = list(batches.list_files(done.id, vector_store_id=store, limit=2, order="asc"))
    assert [file.id for file in listed] == ids
    assert listed[0].attributes == {"first": True}
    assert listed[1].chunking_strategy is not None
    assert listed[1].chunking_strategy.type == "static"
    assert not batches.list_files(done.id, vector_store_id=store, filter="failed").data
    assert batches.cancel(done.id, vector_store_id=store).status == "completed"
    shown = http.get(f"/v1/vector_stores/{store}/file_batches/{done.id}")
    assert shown.headers["openai-poll-after-ms"].isdigit()
    client.files.delete(ids[0])
    rest = batches.retrieve(done.id, vector_store_id=store)
    assert (rest.file_counts.total, rest.status) == (4, "completed")
    wrong = http.get(
        f"/v1/vector_stores/{store}/file_batches/{done.id}/files", params={"after": ids[0] + "x"}
    )
    refused(wrong, 400, "after")
    other = http.get(f"/v1/vector_stores/default/file_batches/{done.id}")
    refused(other, 404, "batch_id")


def test_a_batch_whose_files_all_fail(client: OpenAI, store: str) -> None:
    file = uploaded(client, "broken.pdf", "%PDF-1.7 nothing")
    done = client.vector_stores.file_batches.create_and_poll(store, file_ids=[file], **POLL)
    assert (done.status, done.file_counts.failed) == ("failed", 1)


@pytest.fixture
def last_one_waits(backend: Running, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, no file called 11.md is read."""
    may, reading = threading.Event(), backend.parts.library.indexer._reading
    read = reading.read

    async def waiting(path: Path, filename: str, *options: Any) -> Any:
        if filename == "11.md":
            assert await asyncio.to_thread(may.wait, PATIENCE)
        return await read(path, filename, *options)

    monkeypatch.setattr(reading, "read", waiting)
    return may


def test_a_batch_that_is_cancelled(
    client: OpenAI, store: str, last_one_waits: threading.Event
) -> None:
    ids = [uploaded(client, f"{n}.md", WORDS * 20) for n in range(12)]
    batches = client.vector_stores.file_batches
    made = batches.create(store, file_ids=ids)
    assert made.status == "in_progress"
    cancelled = batches.cancel(made.id, vector_store_id=store)
    last_one_waits.set()
    counts = cancelled.file_counts
    assert (cancelled.status, counts.in_progress, counts.total) == ("cancelled", 0, 12)
    assert counts.cancelled + counts.completed == 12
    assert counts.cancelled > 0
    left = list(batches.list_files(made.id, vector_store_id=store, filter="cancelled"))
    # What was cancelled can be asked for again, and is whole then.
    again = client.vector_stores.files.create_and_poll(left[0].id, vector_store_id=store, **POLL)
    assert again.status == "completed"
    assert len(client.vector_stores.files.content(again.id, vector_store_id=store).data) > 1


def test_two_files_of_one_name_in_a_batch_are_two_documents(client: OpenAI, store: str) -> None:
    files: Any = [("index.md", b"About the garden."), ("index.md", b"About the kitchen.")]
    done = client.vector_stores.file_batches.upload_and_poll(store, files=files, **POLL)
    assert done.file_counts.completed == 2
    found = client.vector_stores.search(store, query="garden kitchen").data
    assert {hit.content[0].text for hit in found} == {"About the garden.", "About the kitchen."}
