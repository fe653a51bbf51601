"""What bad requests get: OpenAI's envelope, a sentence that helps, the right status."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import httpx
import openai
import pytest

from rag_backend.llm.registry import build_registry
from tests.rag_backend.api.serving import Running
from tests.rag_backend.api.test_chat import ask

CHAT = "/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def http(backend: Running) -> Iterator[httpx.Client]:
    with backend.http() as client:
        yield client


def refused(answer: httpx.Response, status: int, param: str | None = None) -> dict[str, Any]:
    """The error object, once everything that every error has was checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert body.keys() == {"error"}
    error = cast(dict[str, Any], body["error"])
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert "Traceback" not in answer.text
    assert "detail" not in body
    assert error["message"].endswith((".", "`", "?")) or ":" in error["message"]
    return error


USER: Any = {"role": "user"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}


@pytest.mark.parametrize(
    ("body", "param", "hint"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({}, "messages", "required"),
        ({"messages": "Hello"}, "messages", "list"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "'assistant'"),
        ({"messages": [{"content": "x"}]}, "messages.0.role", "required"),
        ({"messages": [{**USER, "content": " \n"}]}, "messages.0.content", "empty"),
        ({"messages": [{**USER, "content": None}]}, "messages.0.content", "empty"),
        ({"messages": [{**USER, "content": []}]}, "messages.0.content", "empty"),
        ({"messages": [{**USER, "content": 5}]}, "messages.0.content", "string"),
        ({"messages": [{**USER, "content": [IMAGE]}]}, "messages.0.content", "'image_url'"),
        ({"messages": HELLO, "n": 2}, "n", "1"),
        ({"messages": HELLO, "temperature": 9}, "temperature", "2"),
        ({"messages": HELLO, "temperature": "hot"}, "temperature", "number"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens", "1"),
        ({"messages": HELLO, "top_p": 1.5}, "top_p", "1"),
        ({"messages": HELLO, "stop": ["a"] * 17}, "stop", "16"),
        ({"messages": HELLO, "response_format": "json"}, "response_format", "dictionary"),
        ({"messages": HELLO, "tools": "x"}, "tools", "list"),
        ({"messages": HELLO, "logprobs": "x"}, "logprobs", "boolean"),
        ({"messages": HELLO, "audio": {"voice": "x"}}, "audio", "not supported"),
        ({"messages": HELLO, "functions": [{"name": "f"}]}, "functions", "not supported"),
        ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools", "language model"),
        (
            {"messages": HELLO, "response_format": {"type": "json_object"}},
            "response_format",
            "language model",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("streamed", [False, True])
def test_chat_refuses(
    http: httpx.Client, body: dict[str, Any], param: str, hint: str, streamed: bool
) -> None:
    error = refused(http.post(CHAT, json=body | {"stream": streamed}), 400, param)
    assert error["type"] == "invalid_request_error"
    assert hint in error["message"]


@pytest.mark.parametrize(
    "question", ["How many days of annual leave?", "Mật khẩu wifi khách là gì?", "Who won in 1998?"]
)
def test_a_format_that_needs_a_model_is_refused_whatever_is_found(
    http: httpx.Client, question: str
) -> None:
    body = {
        "messages": [{**USER, "content": question}],
        "response_format": {"type": "json_object"},
    }
    refused(http.post(CHAT, json=body), 400, "response_format")


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "code", "hint"),
    [
        (b"{", "invalid_json", "not valid JSON"),
        (b"hello", "invalid_json", "not valid JSON"),
        (b'{"messages": [], "temperature": NaN}', "invalid_json", "not valid JSON"),
        (b'{"messages":[{"role":"user","content":"\\ud800"}]}', "invalid_json", "not valid JSON"),
        (b'{"messages":"\xff"}', "invalid_json", "UTF-8"),
        (b"[" * 5000, "invalid_json", "not valid JSON"),
        (b"[1, 2]", None, "JSON object"),
        (b"5", None, "JSON object"),
        (b"null", None, "JSON object"),
        (b"", None, "JSON object"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bodies_that_are_no_json_object(
    http: httpx.Client, content: bytes, code: str | None, hint: str
) -> None:
    error = refused(http.post(CHAT, content=content, headers=JSON), 400)
    assert error["code"] == code
    assert hint in error["message"]


def test_json_that_is_not_sent_as_json(http: httpx.Client) -> None:
    content = json.dumps({"messages": HELLO})
    form = {"content-type": "application/x-www-form-urlencoded"}
    error = refused(http.post(CHAT, content=content, headers=form), 400)
    assert "Content-Type: application/json" in error["message"]


def test_odd_characters_are_no_error(http: httpx.Client) -> None:
    body = {"messages": [{**USER, "content": "leave\x00 days \U0001f600 \u202e"}]}
    assert http.post(CHAT, json=body).status_code == 200


def test_unknown_store(http: httpx.Client) -> None:
    error = refused(http.post(CHAT, json={"messages": HELLO, "model": "x@nowhere"}), 404, "model")
    assert error["code"] == "model_not_found"
    assert "'nowhere'" in error["message"]


def test_unknown_model(backend: Running, http: httpx.Client) -> None:
    assert http.post(CHAT, json={"messages": HELLO, "model": "gpt-4o"}).status_code == 200
    settings = backend.parts.settings.model_copy(update={"unknown_model": "refuse"})
    strict = replace(backend.parts, settings=settings, registry=build_registry(settings))
    backend.app.state.parts = strict
    try:
        answer = http.post(CHAT, json={"messages": HELLO, "model": "gpt-4o"})
    finally:
        backend.app.state.parts = backend.parts
    assert refused(answer, 404, "model")["code"] == "model_not_found"


def test_what_the_sdk_raises(backend: Running) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        ask(backend, temperature=9)
    assert bad.value.param == "temperature"
    assert bad.value.request_id
    with pytest.raises(openai.NotFoundError):
        ask(backend, "x@nowhere")


LARGE = 33 * 2**20


@pytest.mark.parametrize("with_length", [True, False])
def test_a_body_that_is_too_large(http: httpx.Client, with_length: bool) -> None:
    if with_length:
        answer = _announce_only(http, CHAT, LARGE)
    else:
        piece = b" " * 2**20
        answer = http.post(CHAT, content=(piece for _ in range(33)), headers=JSON)
    assert "MAX_BODY_MB=32 is the limit" in refused(answer, 413)["message"]


def _announce_only(http: httpx.Client, path: str, length: int) -> httpx.Response:
    """Send the headers of a large body and read what comes back."""
    host, port = http.base_url.host, cast(int, http.base_url.port)
    with socket.create_connection((host, port), timeout=30) as sock:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        sock.sendall(f"{head}content-length: {length}\r\n\r\n".encode())
        with sock.makefile("rb") as file:
            status = int(file.readline().split()[1])
            headers = dict[str, str]()
            while line := file.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            content = file.read(int(headers["content-length"]))
    return httpx.Response(status, headers=headers, content=content)


def test_wrong_method_and_unknown_path(http: httpx.Client) -> None:
    answer = http.get(CHAT)
    assert refused(answer, 405)["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "POST"
    assert refused(http.get("/v1/nothing"), 404)["code"] == "unknown_url"
    assert refused(http.get("/v1/no%0Aline"), 404)["code"] == "unknown_url"


def test_a_request_id_is_kept_where_it_is_harmless(http: httpx.Client) -> None:
    kept = http.get("/health", headers={"x-request-id": "client-7"})
    assert kept.headers["x-request-id"] == "client-7"
    made = http.get("/health", headers={"x-request-id": "a b\tc"})
    assert made.headers["x-request-id"].startswith("req_")


def test_a_defect_of_ours(
    backend: Running, http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        async def recorded(self, *_asked: object) -> Any:
            raise KeyError("secret detail")

    backend.app.state.parts = replace(backend.parts, answers=cast(Any, Broken()))
    try:
        answer = http.post(CHAT, json={"messages": HELLO})
    finally:
        backend.app.state.parts = backend.parts
    error = refused(answer, 500)
    assert error["type"] == "server_error"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in caplog.text  # where the traceback is
    assert "secret detail" in caplog.text
