"""CORS, and how much may be sent, on a backend with settings of its own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from rag_backend.settings import Settings
from tests.rag_backend.api.serving import PATIENCE, serving
from tests.rag_backend.api.test_refusals import refused

PAGE = "https://chat.example.org"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = Settings(
        _env_file=None,
        data_dir=tmp_path_factory.mktemp("limits"),
        llm_provider="extractive",
        api_keys="sesame",
        cors_origins=f"{PAGE}, http://localhost:3000",
        max_body_mb=1,
        max_file_mb=1,
        max_messages=3,
        max_message_chars=1000,
    )
    headers = {"authorization": "Bearer sesame"}
    with serving(settings) as running, running.http(headers=headers) as client:
        yield client


def preflight(http: httpx.Client, origin: str) -> httpx.Response:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    return httpx.options(http.base_url.join(CHAT), headers=asked, timeout=PATIENCE)


def test_a_preflight_needs_no_key(http: httpx.Client) -> None:
    answer = preflight(http, PAGE)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "x-stainless-os" in answer.headers["access-control-allow-headers"]
    assert answer.headers["x-request-id"]
    assert preflight(http, "https://elsewhere.example").status_code == 400


def test_what_a_page_may_read(http: httpx.Client) -> None:
    answer = http.get("/v1/models", headers={"origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answer.headers
    elsewhere = http.get("/v1/models", headers={"origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in elsewhere.headers
    wrong = httpx.get(http.base_url.join("/v1/models"), headers={"origin": PAGE}, timeout=PATIENCE)
    refused(wrong, 401)
    assert wrong.headers["access-control-allow-origin"] == PAGE, "so that the page can say why"


def message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_messages(http: httpx.Client) -> None:
    many = refused(http.post(CHAT, json={"messages": [message("a")] * 4}), 400, "messages")
    assert "4 messages" in many["message"]
    assert "MAX_MESSAGES=3" in many["message"]
    long = {"messages": [message("a"), message("b" * 1001)]}
    error = refused(http.post(CHAT, json=long), 400, "messages.1.content")
    assert "1,001 characters" in error["message"]
    assert "MAX_MESSAGE_CHARS=1000" in error["message"]
    parts = [{"type": "text", "text": "c" * 600}] * 2
    in_parts = {"messages": [{"role": "user", "content": parts}]}
    refused(http.post(CHAT, json=in_parts), 400, "messages.0.content")


@pytest.mark.parametrize("announced", [True, False])
def test_bodies(http: httpx.Client, announced: bool) -> None:
    size = 3 * 2**19
    content = b" " * size if announced else (b" " * 2**16 for _ in range(size // 2**16))
    try:
        answer = http.post(CHAT, content=content, headers={"content-type": "application/json"})
    except httpx.WriteError:  # it was refused before all of it was sent
        return
    error = refused(answer, 413)
    assert "MAX_BODY_MB=1 is the limit" in error["message"]
    assert "at least 1." in error["message"]


def test_files(http: httpx.Client) -> None:
    answer = http.post("/v1/files", files={"file": ("a.txt", b" " * (3 * 2**19))})
    assert "MAX_FILE_MB=1" in refused(answer, 413, "file")["message"]
