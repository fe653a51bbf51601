"""EMBEDDING_URL: what is sent, and what each failure of a server becomes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rag_backend.errors import (
    StartError,
    UpstreamBroken,
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from rag_backend.knowledge import embedding_server as module
from rag_backend.knowledge.embedding_server import ServerEmbedding
from rag_backend.patience import Patience
from rag_backend.upstream import Host
from tests.embeddings_server import DIMENSION, Answer, EmbeddingsServer, vector
from tests.ports import refusing

KEY = "sk-AbCdEfGhIjKlMnOp-9876"


def host(url: str, key: str = KEY) -> Host:
    return Host(
        who="The embedding server",
        base_url=f"{url}/v1",
        secret=key,
        proxied=False,
        url_setting="EMBEDDING_URL",
        key_setting="EMBEDDING_API_KEY",
        connect_timeout=2,
        kind="an embedding server",
    )


def connect(
    url: str, *, model: str | None = None, key: str = KEY, answer_timeout: float = 30
) -> ServerEmbedding:
    patience = Patience(attempts=3, total=60, loading=60, first_wait=0.001, longest_wait=0.01)
    return ServerEmbedding(
        host(url, key),
        model,
        512,
        documents=patience,
        queries=patience,
        answer_timeout=answer_timeout,
    )


@pytest.fixture
def server() -> Iterator[EmbeddingsServer]:
    with EmbeddingsServer() as running:
        yield running


@pytest.fixture
def embedding(server: EmbeddingsServer) -> Iterator[ServerEmbedding]:
    connected = connect(server.url)
    yield connected
    connected.close()


def expected(*texts: str) -> Any:
    rows = np.stack([vector(text) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("as_floats", [True, False])
def test_vectors_are_made_unit_vectors(
    server: EmbeddingsServer, embedding: ServerEmbedding, as_floats: bool
) -> None:
    server.as_floats = as_floats
    vectors = embedding.embed(["a cat", "two dogs"], "document")
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(expected("a cat", "two dogs"), abs=1e-6)
    (asked,) = server.asked
    assert asked == {
        "model": "tiny-embedder",  # of those listed, the one that says so
        "input": ["a cat", "two dogs"],
        "encoding_format": "base64",
    }
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert embedding.model_id == "tiny-embedder"


def test_the_model_of_the_setting_is_asked_for(server: EmbeddingsServer) -> None:
    embedding = connect(server.url, model="bge-m3", key="")
    embedding.embed(["a"], "query")
    embedding.close()
    assert server.asked[0]["model"] == embedding.model_id == "bge-m3"
    assert "authorization" not in server.headers[0]


def test_a_server_that_lists_nothing(server: EmbeddingsServer, embedding: ServerEmbedding) -> None:
    server.models = []
    embedding.embed(["a"], "query")
    assert server.asked[0]["model"] == "default"


def test_batches_are_bounded_in_number_and_characters(
    server: EmbeddingsServer, embedding: ServerEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_TEXTS", 3)
    monkeypatch.setattr(module, "_MOST_CHARACTERS", 20)
    texts = ["one", "two", "three", "four", "x" * 30, "y" * 15, "z" * 15]
    assert embedding.embed(texts, "document") == pytest.approx(expected(*texts), abs=1e-6)
    sizes = sorted(len(asked["input"]) for asked in server.asked)
    assert sizes == [1, 1, 1, 1, 3]


@pytest.mark.parametrize(
    ("said", "most"), [(254, 254), (8192, 512), (3, 512), (None, 512), ("254", 512), (True, 512)]
)
def test_a_server_that_says_how_much_it_reads(
    server: EmbeddingsServer, embedding: ServerEmbedding, said: object, most: int
) -> None:
    server.default = Answer(change=lambda body: body | {"max_input_tokens": said})
    embedding.embed(["a"], "document")
    assert embedding.max_tokens == most
    embedding.embed(["word " * 200], "document")  # of 500 tokens, as estimated
    assert len(server.asked[1]["input"]) == (2 if most == 254 else 1)


def test_a_few_requests_are_in_flight_and_no_more(
    server: EmbeddingsServer, embedding: ServerEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_TEXTS", 1)
    server.default = Answer(stall=True)
    texts = [f"text {n}" for n in range(12)]
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(embedding.embed(texts, "document")))
    thread.start()
    server.until_asked(4)
    # While documents fill their places, a query is asked at once.
    query = threading.Thread(target=lambda: found.append(embedding.embed(["q"], "query")))
    query.start()
    server.until_asked(5)
    assert server.asked[4]["input"] == ["q"]
    server.release.set()
    for waiting in (thread, query):
        waiting.join(60)
    assert server.most_at_once == 5
    assert sorted(len(vectors) for vectors in found) == [1, 12]


PASSING = [
    Answer(408),
    Answer(409),
    Answer(429, headers={"retry-after-ms": "5"}),
    Answer(500),
    Answer(503, message="loading", code="model_loading"),
    Answer(cut=True),
    Answer(raw="<html>Router login</html>"),
    Answer(change=lambda body: body | {"data": body["data"][:-1]}),
]


@pytest.mark.parametrize("answer", PASSING, ids=lambda a: str(a)[:30])
def test_what_may_pass_is_asked_again(
    server: EmbeddingsServer, embedding: ServerEmbedding, answer: Answer
) -> None:
    if answer.code == "model_loading":
        embedding._patience = {
            kind: Patience(attempts=1, total=60, loading=60, loading_wait=0.001)
            for kind in ("document", "query")
        }
    server.script(answer, answer)
    assert embedding.embed(["a"], "document") == pytest.approx(expected("a"), abs=1e-6)
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_final(
    server: EmbeddingsServer, embedding: ServerEmbedding, status: int
) -> None:
    server.default = Answer(status, message="no")
    with pytest.raises(UpstreamRefused):
        embedding.embed(["a cat sat"], "document")
    assert len(server.asked) == 1


GARBAGE: dict[str, Any] = {
    "no list": {"data": "x"},
    "no rows": {"data": [1]},
    "too few": {"data": []},
    "text": {"data": [{"index": 0, "embedding": "not base64!"}]},
    "odd bytes": {"data": [{"index": 0, "embedding": "YWI="}]},
    "words": {"data": [{"index": 0, "embedding": ["a", "b"]}]},
    "nothing": {"data": [{"index": 0, "embedding": []}]},
    "none": {"data": [{"index": 0}]},
    "nested": {"data": [{"index": 0, "embedding": [[1.0]]}]},
    "nan": {"data": [{"index": 0, "embedding": [1.0, float("nan")]}]},
    "infinite": {"data": [{"index": 0, "embedding": [1.0, float("inf")]}]},
    "zero": {"data": [{"index": 0, "embedding": [0.0, 0.0]}]},
    "a list": [],
}


@pytest.mark.parametrize("name", GARBAGE)
def test_what_are_no_vectors_is_refused_in_one_sentence(
    server: EmbeddingsServer, embedding: ServerEmbedding, name: str
) -> None:
    server.default = Answer(change=lambda _: GARBAGE[name])
    with pytest.raises(UpstreamBroken) as raised:
        embedding.embed(["a"], "document")
    assert str(raised.value).startswith(f"The embedding server at {server.url}/v1 sen")
    assert "\n" not in str(raised.value)


def test_answers_in_another_order(server: EmbeddingsServer, embedding: ServerEmbedding) -> None:
    server.default = Answer(change=lambda body: body | {"data": body["data"][::-1]})
    assert embedding.embed(["a", "b"], "query") == pytest.approx(expected("a", "b"), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "another"}, "'another' now"),
        ({"data": [{"index": 0, "embedding": [1.0, 0.0]}]}, "vectors of 2 numbers now"),
    ],
)
def test_another_model_in_the_middle_is_refused(
    server: EmbeddingsServer, embedding: ServerEmbedding, change: dict[str, Any], said: str
) -> None:
    embedding.embed(["a"], "document")
    server.default = Answer(change=lambda body: body | change)
    with pytest.raises(UpstreamBroken, match=said):
        embedding.embed(["b"], "document")


def test_a_text_that_is_too_long_there_is_read_in_parts(
    server: EmbeddingsServer, embedding: ServerEmbedding, caplog: pytest.LogCaptureFixture
) -> None:
    server.longest = 100
    long = "cats and dogs " * 20
    with caplog.at_level(logging.WARNING):
        vectors = embedding.embed(["a", long, "b"], "document")
    assert vectors.shape == (3, DIMENSION)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert vectors[[0, 2]] == pytest.approx(expected("a", "b"), abs=1e-6)
    assert float(vectors[1] @ expected("cats and dogs")[0]) > 0.95
    assert "read in parts" in caplog.text
    assert "cats" not in caplog.text
    caplog.clear()
    embedding.embed([long + "again"], "document")
    assert not caplog.records  # thousands of such lines would say no more


def test_a_refusal_for_another_reason_is_not_cut_down(
    server: EmbeddingsServer, embedding: ServerEmbedding
) -> None:
    server.default = Answer(400, message="unknown field")
    with pytest.raises(UpstreamRefused, match="unknown field"):
        embedding.embed(["word " * 100], "document")
    assert len(server.asked) == 1


def test_a_server_that_is_away() -> None:
    said = pytest.raises(UpstreamUnavailable, match=r"cannot be reached: .*EMBEDDING_URL\.$")
    with refusing() as url:
        embedding = connect(url)
        with said:
            embedding.embed(["a"], "query")
        embedding.close()


def test_a_server_that_never_answers(server: EmbeddingsServer) -> None:
    server.default = Answer(stall=True)
    embedding = connect(server.url, answer_timeout=0.05)
    with pytest.raises(UpstreamTimeout, match="did not answer within"):
        embedding.embed(["a"], "query")
    embedding.close()


def test_retry_after_past_the_deadline_ends_it(
    server: EmbeddingsServer, embedding: ServerEmbedding
) -> None:
    server.default = Answer(429, headers={"retry-after": "3600"})
    with pytest.raises(UpstreamLimited):
        embedding.embed(["a"], "query")
    assert len(server.asked) == 1


def test_closing_ends_what_is_under_way(server: EmbeddingsServer) -> None:
    server.default = Answer(stall=True)
    embedding = connect(server.url)
    errors: list[UpstreamError] = []

    def embed() -> None:
        try:
            embedding.embed(["a"], "document")
        except UpstreamError as error:
            errors.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    server.until_asked(1)
    embedding.close()
    thread.join(60)
    assert "stopping" in str(errors[0])
    with pytest.raises(UpstreamUnavailable, match="stopping"):
        embedding.embed(["a"], "document")
    embedding.close()


def test_the_key_is_never_shown(
    server: EmbeddingsServer, embedding: ServerEmbedding, caplog: pytest.LogCaptureFixture
) -> None:
    server.default = Answer(500, message=f"bad key {KEY}")
    with caplog.at_level(logging.DEBUG), pytest.raises(UpstreamError) as raised:
        embedding.embed(["a"], "document")
    assert "AbCdEf" not in str(raised.value) + caplog.text


@pytest.mark.parametrize(
    ("url", "key"), [("http://me:pw@a:1", ""), ("http://a", "two words"), ("http://a", "khoá")]
)
def test_what_cannot_be_used_stops_the_start(url: str, key: str) -> None:
    with pytest.raises(StartError, match="EMBEDDING_"):
        host(url, key).check()
