"""The probe for the report at the start."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from pydantic import SecretStr

from rag_backend.llm import probing
from rag_backend.llm.probing import Reachability, probe
from rag_backend.llm.rows import ProviderRow
from rag_backend.upstream import with_version
from tests.openai_server import OpenAIServer


def _row(*urls: str, model: str | None = None) -> ProviderRow:
    return ProviderRow(
        "local",
        base_urls=tuple(with_version(url) for url in urls),
        api_key=SecretStr("sk-very-secret-key"),
        model=model,
        url_setting="LOCAL_LLM_API_URL",
        key_setting="LOCAL_LLM_API_KEY",
        model_setting="LOCAL_LLM_MODEL",
    )


async def test_reached(server: OpenAIServer) -> None:
    found = await probe(_row(server.url))
    detail = f"{server.url}/v1 answers with tiny-upstream"
    assert found == Reachability(True, detail, listed=True)
    assert server.chats == []  # never a completion


async def test_a_model_that_is_not_there(server: OpenAIServer) -> None:
    found = await probe(_row(server.url, model="other"))
    assert found.reached
    assert "does not list the model 'other'" in found.detail
    assert found.remedy == "Check LOCAL_LLM_MODEL; it lists: tiny-upstream."


async def test_a_model_as_ollama_lists_it(server: OpenAIServer) -> None:
    server.models = ["nomic-embed-text:latest", "llama3.2:latest"]
    found = await probe(_row(server.url, model="llama3.2"))
    assert found == Reachability(True, f"{server.url}/v1 answers with llama3.2", listed=True)


async def test_loading(server: OpenAIServer) -> None:
    progress = {"stage": "reading weights", "done": 4, "total": 10, "percent": 40.0}
    failure = {"message": "m is still loading", "code": "loading"}
    server.health = (503, {"status": "loading", "progress": progress, "error": failure})
    found = await probe(_row(server.url))
    assert not found.reached
    assert "is loading its model: reading weights (40 %)" in found.detail


async def test_nobody_there(server: OpenAIServer) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        found = await probe(_row(server.url, down))
    assert not found.reached  # one of two hosts is enough to say so
    assert f"{server.url}/v1 answers" in found.detail
    assert f"{down}/v1 cannot be reached" in found.detail
    assert "LOCAL_LLM_API_URL" in found.remedy


async def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "LIMIT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = await probe(_row(f"http://127.0.0.1:{silent.getsockname()[1]}"))
    assert not found.reached
    assert "did not answer within 0.2 s" in found.detail


@pytest.mark.parametrize(
    ("status", "body", "reached", "words"),
    [
        (401, '{"error": {"message": "no sk-very-secret-key"}}', False, "refused the API key"),
        (404, '{"error": {"message": "no"}}', True, "lists no models"),
        (500, "{}", False, "answered 500"),
        (503, "{}", False, "answered 503"),
        (200, '"hello"', False, "not an OpenAI-style API"),
        (200, "<html></html>", False, "is not JSON"),
    ],
)
async def test_odd_answers(
    server: OpenAIServer, status: int, body: str, reached: bool, words: str
) -> None:
    server.models_raw = (status, body)
    found = await probe(_row(server.url))
    assert found.reached == reached
    assert words in found.detail
    assert "very-secret" not in str(found)


async def test_a_key_that_is_not_set(server: OpenAIServer) -> None:
    server.models_raw = (401, "{}")
    found = await probe(replace(_row(server.url), api_key=None))
    assert not found.reached
    assert "wants an API key" in found.detail
    assert found.remedy == "Set LOCAL_LLM_API_KEY."


async def test_extractive_needs_nothing() -> None:
    assert (await probe(ProviderRow("extractive", kind="extractive"))).reached
