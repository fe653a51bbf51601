"""From a folder of documents to a cited answer, over HTTP, with the real SDK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.e2e.backend import EXAMPLES, BackendProcess, ingest
from tests.openai_server import OpenAIServer, Reply

QUESTIONS = [
    json.loads(line)
    for line in Path(__file__).with_name("questions.jsonl").read_text("utf-8").splitlines()
]


def ask(client: OpenAI, question: str, model: str = "any", **more: Any) -> dict[str, Any]:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], **more
    )
    return answer.to_dict()


def collect(client: OpenAI, question: str, model: str = "any") -> list[dict[str, Any]]:
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], stream=True
    )
    return [chunk.to_dict() for chunk in stream]


@pytest.mark.parametrize("case", QUESTIONS, ids=[case["question"] for case in QUESTIONS])
def test_the_right_document_answers_and_is_cited(library: BackendProcess, case: Any) -> None:
    with library.client() as client:
        answer = ask(client, case["question"])
    content = answer["choices"][0]["message"]["content"]
    for expected in case["must_contain"]:
        assert expected in content
    assert answer["citations"], content
    first = answer["citations"][0]
    assert first["filename"] == Path(case["file"]).name
    notes = answer["choices"][0]["message"]["annotations"]
    assert [note["url_citation"]["url"] for note in notes] == [
        citation["url"] for citation in answer["citations"]
    ]
    original = httpx.get(first["url"], timeout=60)
    assert original.content == (EXAMPLES / case["file"]).read_bytes()


@pytest.mark.parametrize("model", ["extractive", "local", "openai"])
def test_no_prompt_leaks_into_an_answer(library: BackendProcess, model: str) -> None:
    with library.client() as client:
        answer = ask(client, "How much is the lunch allowance?", model, max_tokens=40)
    content = answer["choices"][0]["message"]["content"]
    for piece in ("<|", "assistant\n", "Sources:", "You answer questions"):
        assert piece not in content


def keys(value: Any) -> Any:
    """The shape of an answer: the names of its fields, and of what is inside them."""
    if isinstance(value, dict):
        inner = {name: keys(item) for name, item in value.items()}
        # What was cited is the answer's business, and free-form.
        return inner | {name: [] for name in ("citations", "annotations") if name in inner}
    if isinstance(value, list):
        return [keys(value[0])] if value else []
    return type(value).__name__


def test_every_provider_answers_in_the_same_shape(
    library: BackendProcess, upstream: OpenAIServer
) -> None:
    question = "How much is the lunch allowance?"
    with library.client() as client:
        shapes = {m: keys(ask(client, question, m)) for m in ("extractive", "local", "openai")}
    assert shapes["local"] == shapes["extractive"]
    assert shapes["openai"] == shapes["extractive"]
    sent = upstream.chats[-1]
    assert "45,000 VND" in sent.body["messages"][0]["content"]


def test_every_provider_streams_in_the_same_shape(library: BackendProcess) -> None:
    question = "How much is the lunch allowance?"
    with library.client() as client:
        streams = {m: collect(client, question, m) for m in ("extractive", "local", "openai")}
    for model, chunks in streams.items():
        head, *_, cited, finish = chunks
        assert head["choices"][0]["delta"]["role"] == "assistant", model
        assert "citations" in cited, model
        assert "annotations" in cited["choices"][0]["delta"], model
        assert finish["choices"][0]["finish_reason"] in ("stop", "length"), model
        assert {chunk["provider"] for chunk in chunks} == {model}
    first, *others = (
        [keys(chunks[0]), keys(chunks[-2]), keys(chunks[-1])] for chunks in streams.values()
    )
    assert all(other == first for other in others)


def test_markers_that_name_no_passage_are_removed(
    library: BackendProcess, upstream: OpenAIServer
) -> None:
    upstream.script(Reply("The lunch allowance is 45,000 VND [1], they say [77]."))
    with library.client() as client:
        answer = ask(client, "How much is the lunch allowance?", "openai")
    content = answer["choices"][0]["message"]["content"]
    assert content == "The lunch allowance is 45,000 VND [1], they say."
    note = answer["choices"][0]["message"]["annotations"][0]["url_citation"]
    assert content[note["start_index"] : note["end_index"]] == "[1]"


def test_a_model_that_forgets_its_markers_is_cited_all_the_same(
    library: BackendProcess, upstream: OpenAIServer
) -> None:
    upstream.script(Reply("The lunch allowance is 45,000 VND for each day on site."))
    with library.client() as client:
        answer = ask(client, "How much is the lunch allowance?", "openai")
    assert [c["filename"] for c in answer["citations"]] == ["handbook.md"]


def test_what_no_document_covers_is_said_and_no_model_is_asked(
    library: BackendProcess, upstream: OpenAIServer
) -> None:
    before = len(upstream.chats)
    with library.client() as client:
        english = ask(client, "Who won the football world cup in 1998?", "openai")
        vietnamese = ask(client, "Cách nấu phở bò như thế nào?", "openai")
    assert "nothing about this" in english["choices"][0]["message"]["content"]
    assert "không tìm thấy" in vietnamese["choices"][0]["message"]["content"]
    assert english["citations"] == vietnamese["citations"] == []
    assert len(upstream.chats) == before


def test_a_greeting_is_answered_in_its_language(library: BackendProcess) -> None:
    body = {"messages": [{"role": "user", "content": "Xin chào"}]}
    answer = httpx.post(f"{library.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200
    assert "Xin chào" in answer.json()["choices"][0]["message"]["content"]


def test_a_follow_up_question_knows_what_it_is_about(library: BackendProcess) -> None:
    turns: list[Any] = [
        {"role": "user", "content": "How much is the lunch allowance?"},
        {"role": "assistant", "content": "45,000 VND."},
        {"role": "user", "content": "And since when?"},
    ]
    with library.client() as client:
        answer = client.chat.completions.create(model="extractive", messages=turns).to_dict()
    assert answer["citations"][0]["filename"] == "handbook.md"  # type: ignore[index]


def test_embeddings_and_models(library: BackendProcess) -> None:
    with library.client() as client:
        vectors = client.embeddings.create(model="any", input=["xin chào", "hello"])
        models = [model.id for model in client.models.list()]
    assert [len(item.embedding) for item in vectors.data] == [384, 384]
    assert {"extractive", "local", "openai"} <= set(models)


def test_search_gives_places(library: BackendProcess) -> None:
    with library.client() as client:
        found = client.vector_stores.search("default", query="khoảng cách an toàn khi trời mưa")
        best = found.data[0]
    assert best.filename == "Sổ tay giao thông.pdf"
    assert 0 <= best.score <= 1
    assert (best.model_extra or {})["page"] >= 1


def test_the_second_run_stores_nothing(library: BackendProcess) -> None:
    with library.client() as client:
        before = {f.id for f in client.files.list()}
        done = ingest(str(EXAMPLES), "--url", library.url, folder=library.folder)
        assert done.returncode == 0, done.stderr
        assert {f.id for f in client.files.list()} == before


def test_the_start_tells_what_was_read_and_reached(library: BackendProcess) -> None:
    output = library.output()
    assert "LLM_PROVIDER" in output
    assert "[ok] Provider 'local'" in output
    assert "[ok] Encoder" in output
    assert "sk-e2e-secret" not in output
