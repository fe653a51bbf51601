"""A backend whose encoder is a server: while it works, while it is away, and after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from rag_backend.app import create_app
from rag_backend.settings import Settings
from tests.embeddings_server import Answer, EmbeddingsServer
from tests.ports import refusing
from tests.rag_backend.api.serving import HANDBOOK, PATIENCE, Running, fill, serving

KEY = "sk-AbCdEfGhIjKlMnOp-9876"


def settings(folder: Path, url: str) -> Settings:
    return Settings(
        _env_file=None,
        data_dir=folder / "data",
        llm_provider="extractive",
        llm_max_attempts=1,
        embedding_url=url,
        embedding_api_key=KEY,
    )


async def test_the_backend_starts_without_its_server(tmp_path: Path) -> None:
    with refusing() as away:
        await _starts_without_its_server(create_app(settings(tmp_path, away)), away)


async def _starts_without_its_server(app: FastAPI, away: str) -> None:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        with pytest.raises(Exception, match="cannot be reached"):
            await app.state.parts.encoder.first_word()
        health = await client.get("/health")
        assert health.json()["status"] == "starting"
        assert "EMBEDDING_URL" in health.json()["encoder"]["problem"]
        asked = await client.post("/v1/vector_stores/default/search", json={"query": "leave"})
        assert asked.status_code == 503
        said = asked.json()["error"]["message"]
        assert said.startswith(f"The embedding server at {away}/v1 cannot be reached: check")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddingsServer]:
    with EmbeddingsServer() as running:
        yield running


@pytest.fixture(scope="module")
def backend(
    server: EmbeddingsServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("embedding-url")
    with serving(settings(folder, server.url)) as running:
        fill(running, {"handbook.md": HANDBOOK})
        yield running


def test_documents_are_found(backend: Running, server: EmbeddingsServer) -> None:
    with backend.http() as http:
        answer = http.post("/v1/vector_stores/default/search", json={"query": "annual leave"})
        assert answer.json()["data"][0]["filename"] == "handbook.md"
    assert server.headers[-1]["authorization"] == f"Bearer {KEY}"


def test_words_answer_a_question_while_the_server_is_away(
    backend: Running, server: EmbeddingsServer
) -> None:
    server.default = Answer(503, message="out of memory")
    body = {"model": "x", "messages": [{"role": "user", "content": "How many days of leave?"}]}
    try:
        with backend.http() as http:
            answer = http.post("/v1/chat/completions", json=body)
            away = http.get("/health").json()["encoder"]["problem"]
    finally:
        server.default = Answer()
    assert answer.status_code == 200
    assert "words alone" in away
    assert f'{server.url}/v1 is not ready (503): "out of memory".' in away
    asked = len(server.headers)
    with backend.http() as http:
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        assert len(server.headers) > asked  # that answer was not kept
        assert "problem" not in http.get("/health").json()["encoder"]


def test_a_question_that_the_server_refuses_is_an_error(
    backend: Running, server: EmbeddingsServer
) -> None:
    server.default = Answer(401, message="no such key")
    try:
        with backend.http() as http:
            answer = http.post("/v1/vector_stores/default/search", json={"query": "a key"})
    finally:
        server.default = Answer()
    assert answer.status_code == 502
    assert "(401)" in answer.json()["error"]["message"]


def test_a_file_waits_for_the_server_and_goes_on(
    backend: Running, server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_backend.knowledge.vectorising._AWAY_SECONDS", 0.05)
    sdk = backend.sdk()
    later = ("later.txt", b"The parking lot closes at nine.")
    file = sdk.files.create(file=later, purpose="user_data")
    server.default = Answer(500, message="it crashed")
    try:
        sdk.vector_stores.files.create("default", file_id=file.id)
        with backend.http() as http:
            until(lambda: "it crashed" in str(http.get("/health").json()["storage"]["problem"]))
            assert http.get("/health").json()["pending_files"] == 1
        waiting = sdk.vector_stores.files.retrieve(file.id, vector_store_id="default")
        assert (waiting.status, waiting.last_error) == ("in_progress", None)
    finally:
        server.default = Answer()
    done = sdk.vector_stores.files.poll(file.id, vector_store_id="default", poll_interval_ms=20)
    assert done.status == "completed"
    with backend.http() as http:
        until(lambda: http.get("/health").json()["storage"]["problem"] is None)


def test_a_text_that_is_refused_fails_its_own_file_which_can_be_ingested_again(
    backend: Running, server: EmbeddingsServer
) -> None:
    sdk = backend.sdk()
    file = sdk.files.create(file=("bad.txt", b"Something odd."), purpose="user_data")
    server.default = Answer(400, message="it is odd")
    try:
        first = sdk.vector_stores.files.create_and_poll(
            file.id, vector_store_id="default", poll_interval_ms=20
        )
    finally:
        server.default = Answer()
    assert first.status == "failed"
    assert first.last_error is not None
    assert "it is odd" in first.last_error.message
    again = sdk.vector_stores.files.create_and_poll(
        file.id, vector_store_id="default", poll_interval_ms=20
    )
    assert again.status == "completed"


def test_a_question_while_the_server_hangs_is_answered_by_words(
    backend: Running, server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = backend.parts.library.retriever.queries
    monkeypatch.setattr(queries, "_patience", 0.1)
    body = {"query": "annual leave"}
    server.release.clear()
    server.default = Answer(stall=True)
    try:
        with backend.http() as http:
            answer = http.post("/v1/vector_stores/default/search", json=body)
            late = http.get("/health")
    finally:
        server.default = Answer()
        server.release.set()
    assert answer.json()["data"][0]["filename"] == "handbook.md"
    assert late.status_code == 200
    assert "words alone" in late.json()["encoder"]["problem"]
    monkeypatch.setattr(queries, "_patience", PATIENCE)
    with backend.http() as http:
        http.post("/v1/vector_stores/default/search", json=body)
        assert "problem" not in http.get("/health").json()["encoder"]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come true"
