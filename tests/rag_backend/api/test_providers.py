"""`/v1/providers`: who can answer, and how each of them is doing."""

from __future__ import annotations

import json

import pytest
from starlette.datastructures import Headers

from rag_backend.api.guarding import Guard
from rag_backend.errors import Unauthorized
from tests.openai_server import OpenAIServer, Reply
from tests.rag_backend.api.serving import Running
from tests.rag_backend.api.test_upstreams import post


def test_lists_each_with_its_numbers(backend: Running, cloud: OpenAIServer) -> None:
    assert post(backend).status_code == 200
    with backend.http() as http:
        listed = http.get("/v1/providers").json()
        one = http.get("/v1/providers/openai").json()
    assert listed["object"] == "list"
    rows = {row["name"]: row for row in listed["data"]}
    assert list(rows) == ["openai", "local", "extractive"]
    assert rows["openai"] == one
    assert (one["object"], one["kind"], one["cloud"]) == ("provider", "openai_compatible", True)
    assert one["base_urls"] == [f"{cloud.url}/v1"]
    assert (one["model"], one["state"], one["in_flight"]) == ("gpt-4o-mini", "ready", 0)
    assert one["latency"]["first_token_p50_ms"] > 0
    (host,) = one["hosts"]
    assert (host["base_url"], host["breaker"], host["last_error"]) == (
        f"{cloud.url}/v1",
        "closed",
        None,
    )
    assert rows["extractive"]["chosen"]


def test_shows_what_went_wrong_and_no_secret(backend: Running, cloud: OpenAIServer) -> None:
    cloud.script(Reply.error(401, "Incorrect API key provided: sk-test."))
    assert post(backend).status_code == 502
    with backend.http() as http:
        shown = http.get("/v1/providers/openai").json()
    assert shown["state"] == "degraded"
    assert "refused the API key" in shown["hosts"][0]["last_error"]
    assert "sk-test" not in json.dumps(shown)


def test_an_unknown_name(backend: Running) -> None:
    with backend.http() as http:
        answer = http.get("/v1/providers/nobody")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == (
        "LLM 'nobody' not found. Available: openai, local, extractive"
    )


def test_it_needs_a_key_like_everything_else() -> None:
    for path in ("/v1/providers", "/v1/providers/openai"):
        with pytest.raises(Unauthorized):
            Guard(["sesame"]).admit(path, Headers({}))
