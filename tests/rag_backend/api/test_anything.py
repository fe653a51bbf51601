"""Whatever is sent, it is answered or refused: never a defect of ours."""

from __future__ import annotations

import itertools
import random
import socket
from typing import Any, cast

import httpx
import pytest

from tests.rag_backend.api.serving import Running

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**70, 1.5, "", " ", "x", "\x00", "📄" * 9, "..", "a@b@c", "@",
    [], [""], [None], [1], [[]], ["", "x"], [{}], {}, {"type": "x"}, {"type": []}, {"": None},
    {"type": "json_object"}, [{"role": "user"}], [{"role": "user", "content": "Leave?"}],
    [{"role": "tool", "content": "7"}], [{"role": "assistant", "content": None}],
    [{"role": "user", "content": [{"type": "text", "text": None}]}],
)  # fmt: skip
FIELDS = {
    "/v1/chat/completions": (
        "messages model stream stream_options n temperature top_p max_tokens stop seed tools "
        "tool_choice response_format logprobs user metadata functions extra_body timeout "
        "max_completion_tokens presence_penalty modalities reasoning_effort"
    ).split(),
    "/v1/embeddings": "input model encoding_format dimensions user".split(),
    "/v1/vector_stores/default/search": (
        "query max_num_results filters ranking_options rewrite_query"
    ).split(),
    "/v1/vector_stores/default/files": "file_id attributes chunking_strategy".split(),
    "/v1/vector_stores/default/file_batches": (
        "file_ids files attributes chunking_strategy"
    ).split(),
    "/v1/vector_stores/default": "name metadata expires_after description".split(),
}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "How many days of leave?"}]},
    "/v1/embeddings": {"input": "a"},
    "/v1/vector_stores/default/search": {"query": "leave"},
    "/v1/vector_stores/default/files": {"file_id": "file-none"},
    "/v1/vector_stores/default/file_batches": {"file_ids": ["file-none"]},
    "/v1/vector_stores/default": {},
}


@pytest.mark.parametrize("path", FIELDS)
def test_any_value_in_any_field(backend: Running, path: str) -> None:
    models = itertools.cycle(["extractive", "openai"])
    with backend.http() as http:
        for field in FIELDS[path]:
            for value in VALUES:
                body = GOOD[path] | ({"model": next(models)} if "model" in FIELDS[path] else {})
                answer = http.post(path, json=body | {field: value})
                assert answer.status_code < 500, (field, value, answer.text)
                if answer.status_code >= 400:
                    assert answer.json()["error"]["message"], (field, value)


def test_many_at_once(backend: Running) -> None:
    chance = random.Random(5)
    path = "/v1/chat/completions"
    with backend.http() as http:
        for _ in range(60):
            fields = chance.sample(FIELDS[path], 4)
            junk = {field: chance.choice(VALUES) for field in fields}
            answer = http.post(path, json=GOOD[path] | junk)
            assert answer.status_code < 500, (junk, answer.text)


@pytest.mark.parametrize(
    "host", ["", "a b", "[::1", "x" * 300, "é", "evil.example:99999", "a/b?c#d"]
)
def test_any_host(backend: Running, host: str) -> None:
    url = httpx.URL(backend.url)
    content = b'{"messages":[{"role":"user","content":"How many days of annual leave?"}]}'
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((url.host, cast(int, url.port)), timeout=30) as sock:
        sock.sendall(head.encode() + content)
        with sock.makefile("rb") as file:
            assert int(file.readline().split()[1]) < 500


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/..%2f..%2fetc%2fpasswd/content",
        "/v1/files/%00/content",
        "/v1/files/%ff",
        "/v1/vector_stores/%F0%9F%93%84",
        "/v1/models/%00@%ff",
        "/v1/models/a@b@c",
        "/v1/files?limit=x&order=y",
        "/v1/files?after=%00",
        "/v1/files?limit=99999999999999999999",
    ],
)
def test_any_path(backend: Running, path: str) -> None:
    with backend.http() as http:
        answer = http.get(path)
    assert 400 <= answer.status_code < 500
    assert answer.json().keys() == {"error"}
