"""Search over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.openai_server import OpenAIServer, Reply
from tests.rag_backend.api.serving import Running

SEARCH = "/v1/vector_stores/default/search"


@pytest.fixture
def http(backend: Running) -> Iterator[httpx.Client]:
    with backend.http() as client:
        yield client


def searched(http: httpx.Client, query: Any, **options: Any) -> dict[str, Any]:
    answer = http.post(SEARCH, json={"query": query, **options})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_results_say_where_they_are_from(http: httpx.Client) -> None:
    found = searched(http, "lunch allowance")
    assert found["object"] == "vector_store.search_results.page"
    assert (found["search_query"], found["has_more"], found["next_page"]) == (
        ["lunch allowance"],
        False,
        None,
    )
    best = found["data"][0]
    assert best["filename"] == "handbook.md"
    assert best["content"][0]["text"].startswith("The lunch allowance")
    assert best["heading_path"] == ["Handbook", "Lunch"]
    assert best["end"] > best["start"]
    scores = [hit["score"] for hit in found["data"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_how_many_and_how_good(http: httpx.Client) -> None:
    assert len(searched(http, "leave", max_num_results=1)["data"]) == 1
    above = searched(http, "lunch allowance", ranking_options={"score_threshold": 0.99})["data"]
    assert all(hit["score"] >= 0.99 for hit in above)
    for ranker in ("none", "auto", "default-2024-11-15"):
        assert searched(http, "lunch", ranking_options={"ranker": ranker})["data"]


def test_several_queries_are_one_ranking(http: httpx.Client) -> None:
    found = searched(http, ["lunch allowance", "Ly Thuong Kiet"], max_num_results=4)
    assert {hit["filename"] for hit in found["data"][:2]} == {"handbook.md", "offices.csv"}
    assert len({str(hit["content"]) for hit in found["data"]}) == len(found["data"])


def test_a_question_becomes_a_query(http: httpx.Client, local: OpenAIServer) -> None:
    local.default = Reply(status=500)
    question = "Hi! Could you please tell me what the lunch allowance is?"
    found = searched(http, question, rewrite_query=True)
    assert found["search_query"] == ["lunch allowance is"]
    assert found["data"][0]["heading_path"] == ["Handbook", "Lunch"]
    local.default = Reply(text="lunch allowance VND")
    assert searched(http, question, rewrite_query=True)["search_query"] == ["lunch allowance VND"]
    assert searched(http, question)["search_query"] == [question]
