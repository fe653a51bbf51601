"""`POST /v1/chat/completions` through the real SDK, on a real socket."""

from __future__ import annotations

import csv
import io
import json
import logging
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.ingest.reading.samples import xlsx_bytes
from tests.openai_server import OpenAIServer, Reply
from tests.rag_backend.api.serving import Running

QUESTION = "How many days of annual leave do employees have?"
EVERY = pytest.mark.parametrize("model", ["extractive", "local", "openai"])


def messages(question: str = QUESTION) -> Any:
    return [{"role": "user", "content": question}]


def ask(backend: Running, model: str = "extractive", **options: Any) -> dict[str, Any]:
    given = {"messages": messages(), "model": model} | options
    with backend.sdk() as client:
        return client.chat.completions.create(**given).to_dict()


def stream(backend: Running, model: str = "extractive", **options: Any) -> list[dict[str, Any]]:
    given = {"messages": messages(), "model": model, "stream": True} | options
    with backend.sdk() as client:
        return [chunk.to_dict() for chunk in client.chat.completions.create(**given)]


@EVERY
def test_a_plain_answer(
    backend: Running, cloud: OpenAIServer, local: OpenAIServer, model: str
) -> None:
    answer = ask(backend, model)
    assert answer.keys() == (
        {"id", "object", "created", "model", "provider"} | {"choices", "usage", "citations"}
    )
    assert answer["object"] == "chat.completion"
    assert answer["provider"] == model
    (choice,) = answer["choices"]
    assert choice.keys() == {"index", "message", "logprobs", "finish_reason"}
    assert choice["message"].keys() == {"role", "content", "refusal", "annotations"}
    assert choice["finish_reason"] == "stop"
    assert "twelve days of annual leave [1]" in choice["message"]["content"].replace(". [", " [")
    assert answer["usage"].keys() == {"prompt_tokens", "completion_tokens", "total_tokens"}
    (citation,) = answer["citations"]
    assert citation["filename"] == "handbook.md"
    assert citation["heading_path"] == ["Handbook", "Annual leave"]
    assert citation["quote"] == "Employees have twelve days of annual leave."
    (note,) = choice["message"]["annotations"]
    place = note["url_citation"]
    assert choice["message"]["content"][place["start_index"] : place["end_index"]] == "[1]"
    assert place["url"] == citation["url"]
    with backend.http() as http:
        assert "twelve days" in http.get(citation["url"]).text


@EVERY
def test_a_streamed_answer(
    backend: Running, cloud: OpenAIServer, local: OpenAIServer, model: str
) -> None:
    chunks = stream(backend, model)
    plain = ask(backend, model)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert all([c["index"] for c in chunk["choices"]] == [0] for chunk in chunks)
    assert not any("usage" in chunk for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all("role" not in delta for delta in deltas[1:])
    said = plain["choices"][0]["message"]
    assert "".join(delta.get("content", "") for delta in deltas) == said["content"]
    assert deltas[-2]["annotations"] == said["annotations"]
    assert chunks[-2]["citations"] == plain["citations"]
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (
        len(chunks) - 1
    ) + ["stop"]


@EVERY
def test_usage_in_a_stream_is_a_last_chunk_of_its_own(
    backend: Running, cloud: OpenAIServer, local: OpenAIServer, model: str
) -> None:
    *_, finish, usage = stream(backend, model, stream_options={"include_usage": True})
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] > 0


async def test_the_async_client(backend: Running) -> None:
    async with AsyncOpenAI(base_url=f"{backend.url}/v1", api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.create(model="x", messages=messages())
        chunks = await client.chat.completions.create(model="x", messages=messages(), stream=True)
        said = [chunk.choices[0].delta.content or "" async for chunk in chunks]
    assert "".join(said) == answer.choices[0].message.content


def test_content_parts_are_joined(backend: Running, cloud: OpenAIServer) -> None:
    parts = [{"type": "text", "text": "How many days of"}, {"type": "text", "text": "leave?"}]
    ask(backend, "openai", messages=[{"role": "user", "content": parts}])
    assert cloud.chats[-1].body["messages"][-1]["content"] == "How many days of\nleave?"


def test_unknown_fields_are_passed_on(backend: Running, cloud: OpenAIServer) -> None:
    ask(backend, "openai", temperature=0.5, seed=7, stop=["", "x"], extra_body={"top_k": 4})
    sent = cloud.chats[-1].body
    assert (sent["temperature"], sent["seed"], sent["top_k"]) == (0.5, 7, 4)
    assert sent["stop"] == ["x"]
    assert "n" not in sent


def test_tools_are_passed_on_and_called(backend: Running, cloud: OpenAIServer) -> None:
    function = {"name": "leave_days", "arguments": '{"employee": 7}'}
    call = {"id": "call-1", "type": "function", "function": function}
    tool: Any = {"type": "function", "function": {"name": "leave_days", "parameters": {}}}
    cloud.script(Reply(tool_calls=(call,), finish_reason="tool_calls"))
    answer = ask(backend, "openai", tools=[tool])
    assert cloud.chats[-1].body["tools"] == [tool]
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [call]


def test_json_is_left_as_it_is(backend: Running, cloud: OpenAIServer) -> None:
    cloud.script(Reply('{"days": [12], "names": [1, 2]}'))
    answer = ask(backend, "openai", response_format={"type": "json_object"})
    assert answer["choices"][0]["message"]["content"] == '{"days": [12], "names": [1, 2]}'
    assert "like [1]" not in cloud.chats[-1].body["messages"][0]["content"]


def test_logprobs_are_passed_on(backend: Running, cloud: OpenAIServer) -> None:
    spoken = {"content": [{"token": "a", "logprob": -1.0, "bytes": None, "top_logprobs": []}]}
    cloud.script(Reply("One two [1].", logprobs=spoken))
    answer = ask(backend, "openai", logprobs=True)
    assert answer["choices"][0]["logprobs"]["content"][0] == spoken["content"][0]


def test_a_table_is_quoted_by_its_row(backend: Running, cloud: OpenAIServer) -> None:
    cloud.script(Reply("City: Hue; Manager: Nguyen Hoa [1]."))
    answer = ask(backend, "openai", messages=messages("Who is the manager of the office in Hue?"))
    assert answer["citations"][0]["quote"] == "Hue | Le Loi 7 | Nguyen Hoa"


def test_a_curated_answer_is_verbatim_and_asks_no_model(
    backend: Running, cloud: OpenAIServer
) -> None:
    before = len(cloud.chats)
    answer = ask(backend, "openai", messages=messages("mật khẩu WIFI khách là gì"))
    message = answer["choices"][0]["message"]
    assert message["content"] == "Hỏi lễ tân ở tầng một."
    assert [c["filename"] for c in answer["citations"]] == ["faq.csv"]
    assert len(cloud.chats) == before


CURATED = [
    ("Question", "Answer", "How long is the notice period?", "HOW long is the  notice period"),
    ("Câu hỏi", "Câu trả lời", "Thời hạn báo trước là bao lâu?", "thời hạn báo trước, là bao lâu"),
]


@pytest.mark.parametrize("suffix", ["xlsx", "csv", "jsonl"])
@pytest.mark.parametrize(("asked", "answered", "question", "typed"), CURATED)
def test_curated_answers_of_every_format(
    backend: Running,
    cloud: OpenAIServer,
    suffix: str,
    asked: str,
    answered: str,
    question: str,
    typed: str,
) -> None:
    text = f"Ba mươi ngày;\n“thirty” days, {suffix}."
    name = f"notice.{suffix}"
    with backend.sdk() as client:
        store = client.vector_stores.create(name=f"curated-{suffix}-{asked[0]}")
        file = client.files.create(
            file=(name, _sheet(suffix, {asked: question, answered: text})), purpose="assistants"
        )
        done = client.vector_stores.files.create_and_poll(
            file_id=file.id, vector_store_id=store.id, poll_interval_ms=50
        )
        assert done.status == "completed", done.last_error
    before = len(cloud.chats)
    for form in (question, typed, unicodedata.normalize("NFD", typed.upper())):
        answer = ask(backend, f"openai@{store.name}", messages=messages(form))
        assert answer["choices"][0]["message"]["content"] == text
        assert [cited["file_id"] for cited in answer["citations"]] == [file.id]
    assert len(cloud.chats) == before


def _sheet(suffix: str, row: dict[str, str]) -> bytes:
    """One question and its answer, with a number before them, in any of the formats."""
    numbered = {"STT": "1", **row}
    if suffix == "jsonl":
        return json.dumps(numbered, ensure_ascii=False).encode()
    if suffix == "xlsx":
        return xlsx_bytes({"FAQ": [list(numbered), list(numbered.values())]})
    out = io.StringIO()
    csv.writer(out).writerows([list(numbered), list(numbered.values())])
    return out.getvalue().encode()


def test_the_users_own_call(backend: Running) -> None:
    with backend.http() as http:
        answer = http.post(
            "/v1/chat/completions",
            headers={"content-type": "application/json"},
            content='{"messages":[{"role":"user","content":"Xin chào"}]}'.encode(),
        )
    assert answer.status_code == 200
    assert "Xin chào" in answer.json()["choices"][0]["message"]["content"]


def test_a_store_in_the_model_name(backend: Running, cloud: OpenAIServer) -> None:
    with backend.sdk() as client:
        store = client.vector_stores.create(name="empty")
        answer = ask(backend, "openai@empty")
        client.vector_stores.delete(store.id)
    assert answer["citations"] == []
    assert [m["role"] for m in cloud.chats[-1].body["messages"]] == ["user"]  # plain chat


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("streamed", [True, False])
def test_content_is_logged_only_when_wanted(
    backend: Running, caplog: pytest.LogCaptureFixture, wanted: bool, streamed: bool
) -> None:
    settings = backend.parts.settings.model_copy(update={"log_content": wanted})
    backend.app.state.parts = replace(backend.parts, settings=settings)
    with caplog.at_level(logging.INFO):
        try:
            (stream if streamed else ask)(backend)
        finally:
            backend.app.state.parts = backend.parts
    assert (f"question: {QUESTION}" in caplog.text) == wanted
    assert ("answer: Employees have twelve days" in caplog.text) == wanted
