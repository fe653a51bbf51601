"""A real server process, asked over HTTP and by OpenAI's own SDK."""

from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from llm_offline.loaded import LoadedModel
from tests.llm_offline.processes import ServerProcess, server

KEY = "a-key-for-tests"
HELLO: list[Any] = [{"role": "user", "content": "Xin chào 😀"}]
ENDLESS = {"messages": HELLO, "temperature": 0, "stop": ["never said"], "seed": 1}


@pytest.fixture(scope="module")
def running(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    # One at a time, so that one request fills the server and another one the queue.
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--dtype", "fp32"]
    flags += ["--max-queue", "1", "--max-batch", "1"]
    folder = tmp_path_factory.mktemp("server")
    with server(folder, *flags, LLM_OFFLINE_API_KEY=KEY) as process:
        yield process.until_ready()


@pytest.fixture
def client(running: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def http(running: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=running.url, headers=headers, timeout=60) as client:
        yield client


def _idle(running: ServerProcess) -> dict[str, Any]:
    return running.until(lambda _, answer: answer["queue"]["running"] == 0)


def _counters(http: httpx.Client) -> dict[str, float]:
    lines = http.get("/metrics").text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name.removeprefix("llm_offline_"): float(value) for name, value in pairs}


def test_health_and_models(running: ServerProcess, client: OpenAI, tiny_folder: Path) -> None:
    status, health = running.health()
    assert status == 200
    assert health["model"] == tiny_folder.name
    assert (health["device"], health["dtype"], health["context_length"]) == ("cpu", "fp32", 4096)
    assert health["queue"]["limit"] == 1
    assert health["memory"]["used_bytes"] > 0
    assert [model.id for model in client.models.list()] == [tiny_folder.name]
    assert client.models.retrieve(tiny_folder.name).owned_by == "llm_offline"


def test_chat_plain_and_streamed_say_the_same(client: OpenAI, loaded: LoadedModel) -> None:
    options: dict[str, Any] = {"model": "any", "messages": HELLO, "temperature": 0}
    plain = client.chat.completions.create(**options, max_tokens=40)
    assert plain.object == "chat.completion"
    assert plain.choices[0].message.role == "assistant"
    assert plain.choices[0].finish_reason == "length"
    assert plain.usage is not None
    assert plain.usage.prompt_tokens == len(loaded.text.encode_chat(HELLO))
    assert plain.usage.completion_tokens == 40
    said = plain.choices[0].message.content or ""
    assert not any(leak in said for leak in ("Xin chào 😀", "<|", "assistant"))

    chunks = list(
        client.chat.completions.create(
            **options,
            max_completion_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    counted = chunks[-1].usage
    assert counted is not None
    assert counted.total_tokens == plain.usage.total_tokens
    assert counted.prompt_tokens_details is not None
    # The second time, all full blocks of the prompt are known.
    assert counted.prompt_tokens_details.cached_tokens == (plain.usage.prompt_tokens - 1) // 16 * 16
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_on_the_wire(http: httpx.Client) -> None:
    body = {"messages": HELLO, "max_tokens": 3, "stream": True}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-request-id"]
    lines = [line for line in answer.text.split("\n") if line]
    assert all(line.startswith(("data: ", ":")) for line in lines)
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    assert all("usage" not in chunk for chunk in chunks)
    assert all(chunk["choices"][0]["index"] == 0 for chunk in chunks)


def test_no_bos_is_doubled(http: httpx.Client, loaded: LoadedModel) -> None:
    answer = http.post("/tokenize", json={"messages": HELLO}).json()
    assert answer["tokens"].count(0) == 1
    assert answer["count"] == len(answer["tokens"])
    assert http.post("/tokenize", json={"text": "Xin"}).json()["tokens"] == loaded.text.encode(
        "Xin", add_special_tokens=False
    )


def test_seed_and_stop(client: OpenAI) -> None:
    def text(**options: Any) -> str:
        options = {"model": "any", "messages": HELLO, "max_tokens": 30, **options}
        return client.chat.completions.create(**options).choices[0].message.content or ""

    assert text(seed=5) == text(seed=5)
    assert text(seed=5) != text(seed=6)
    greedy = text(temperature=0)
    middle = greedy[10:13]
    assert text(temperature=0, stop=middle) == greedy[: greedy.index(middle)]
    assert text(temperature=0, stop=["never said", middle]) == greedy[: greedy.index(middle)]


def test_several_texts(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": "any", "messages": HELLO, "max_tokens": 12, "seed": 3}
    one = client.chat.completions.create(**options)
    with pytest.raises(openai.BadRequestError, match="2 at most"):  # one runs, one waits
        client.chat.completions.create(**options, n=3)
    two = client.chat.completions.create(**options, n=2)
    said = [choice.message.content for choice in two.choices]
    assert [choice.index for choice in two.choices] == [0, 1]
    assert said[0] == one.choices[0].message.content != said[1]
    assert two.usage is not None
    assert two.usage.completion_tokens == 24
    streamed = ["", ""]
    ends = []
    for chunk in client.chat.completions.create(**options, n=2, stream=True):
        choice = chunk.choices[0]
        streamed[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert streamed == said
    assert sorted(ends) == [0, 1]


def test_logprobs(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": "any", "messages": HELLO, "max_tokens": 8, "seed": 1}
    plain = client.chat.completions.create(**options, logprobs=True, top_logprobs=3)
    found = plain.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert len(found.content) == 8
    for token in found.content:
        assert token.logprob <= max(other.logprob for other in token.top_logprobs) <= 0
        assert len(token.top_logprobs) == 3
    streamed = [
        token.logprob
        for chunk in client.chat.completions.create(**options, logprobs=True, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == pytest.approx([token.logprob for token in found.content], abs=1e-4)
    completed = client.completions.create(
        model="any", prompt="Xin", logprobs=2, max_tokens=4, temperature=0
    )
    assert completed.choices[0].logprobs is not None
    assert len(completed.choices[0].logprobs.tokens or []) == 4


def test_penalties_and_biases(client: OpenAI, loaded: LoadedModel) -> None:
    token = loaded.text.encode("xin", add_special_tokens=False)[0]
    options: dict[str, Any] = {"model": "any", "messages": HELLO, "max_tokens": 6}
    said = client.chat.completions.create(**options, logit_bias={str(token): 100})
    assert said.choices[0].message.content == loaded.text.token_text(token) * 6
    varied = client.chat.completions.create(
        **options,
        temperature=0,
        frequency_penalty=2,
        presence_penalty=2,
        logprobs=True,
        extra_body={"repetition_penalty": 10, "top_k": 50, "min_p": 0.1},
    )
    found = varied.choices[0].logprobs
    assert found is not None
    assert len({(one.token, one.logprob) for one in found.content or []}) == 6


def test_json(client: OpenAI) -> None:
    schema: Any = {
        "type": "json_schema",
        "json_schema": {
            "name": "fine",
            "schema": {
                "type": "object",
                "properties": {
                    "vehicle": {"enum": ["car", "motorbike"]},
                    "amount": {"type": "integer", "minimum": 0, "maximum": 9999},
                    "paid": {"type": "boolean"},
                },
                "required": ["vehicle", "amount", "paid"],
                "additionalProperties": False,
            },
        },
    }
    for seed in range(5):
        said = client.chat.completions.create(
            model="any", messages=HELLO, seed=seed, response_format=schema
        )
        fine = json.loads(said.choices[0].message.content or "")
        assert fine["vehicle"] in ("car", "motorbike")
        assert 0 <= fine["amount"] <= 9999
        assert said.choices[0].finish_reason == "stop"
    free = client.chat.completions.create(
        model="any", messages=HELLO, max_tokens=20, response_format={"type": "json_object"}
    )
    assert (free.choices[0].message.content or "").startswith("{")


def test_metrics(http: httpx.Client) -> None:
    lines = http.get("/metrics").text.splitlines()
    names = {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
    assert {
        "llm_offline_num_requests_running",
        "llm_offline_kv_cache_usage_perc",
        "llm_offline_prefix_cache_hits_total",
        "llm_offline_spec_decode_num_accepted_tokens_total",
        "llm_offline_time_to_first_token_seconds_bucket",
        "llm_offline_inter_token_latency_seconds_sum",
        "llm_offline_device_memory_used_bytes",
    } <= names


def test_content_parts_are_joined(http: httpx.Client) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    joined = [{"role": "user", "content": "one\ntwo"}]
    assert (
        http.post("/tokenize", json={"messages": [{"role": "user", "content": parts}]}).json()
        == http.post("/tokenize", json={"messages": joined}).json()
    )


def test_completions_and_generate(client: OpenAI, http: httpx.Client) -> None:
    plain = client.completions.create(model="any", prompt="Every employee", temperature=0)
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 16
    streamed = client.completions.create(
        model="any", prompt="Every employee", temperature=0, stream=True
    )
    text = "".join(chunk.choices[0].text for chunk in streamed)
    assert text == plain.choices[0].text
    generated = http.post(
        "/v1/generate", json={"prompt": "Every employee", "max_tokens": 16, "do_sample": False}
    ).json()
    assert generated["text"] == text
    assert set(generated) == {"text", "usage", "finish_reason", "model"}
    # Raw text gets its BOS once.
    assert generated["usage"]["prompt_tokens"] == plain.usage.prompt_tokens


def test_embeddings(client: OpenAI) -> None:
    # Without encoding_format the SDK asks for base64 and decodes it.
    texts = ["a helmet for the ride", "headgear on a motorbike", "the canteen's menu"]
    answer = client.embeddings.create(model="any", input=texts)
    vectors = [item.embedding for item in answer.data]
    assert [len(vector) for vector in vectors] == [384] * 3

    def similarity(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert similarity(vectors[0], vectors[1]) > similarity(vectors[0], vectors[2]) + 0.2
    assert answer.usage.prompt_tokens > 10
    floats = client.embeddings.create(model="any", input=texts[0], encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(vectors[0], abs=1e-5)


def test_base64_is_little_endian_float32(http: httpx.Client) -> None:
    body = {"input": "xin chào", "encoding_format": "base64"}
    packed = base64.b64decode(http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"])
    assert sum(x * x for x in struct.unpack("<384f", packed)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"input": [1, 2, 3]}, "input"),
        ("/v1/embeddings", {"input": ""}, "input"),
        ("/v1/embeddings", {"input": "word " * 400}, "input"),
        ("/v1/embeddings", {"input": "x", "dimensions": 12}, "dimensions"),
        ("/v1/completions", {"prompt": ["a", "b"]}, "prompt"),
        ("/v1/completions", {"prompt": "a", "echo": True}, "echo"),
        ("/v1/completions", {"prompt": "a", "best_of": 2}, "best_of"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("/v1/completions", {"prompt": [1, 2]}, "prompt"),
        ("/v1/generate", {"prompt": "a", "do_sample": True, "temperature": 0}, "do_sample"),
        ("/v1/generate", {"prompt": "a", "stream": True}, "stream"),
        ("/tokenize", {}, None),
    ],
)
def test_refusals_of_other_endpoints(
    http: httpx.Client, path: str, body: dict[str, Any], param: str | None
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "no_template"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"100000": 1}}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {"0" * 20 + "999999999": 1}}, "logit_bias"),
        ({"logit_bias": {"0" * 5000: 1}}, "logit_bias"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_p": 2}, "min_p"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            "response_format",
        ),
        ({"store": True}, "store"),
        ({"verbosity": "low"}, "verbosity"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "mp3"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"moderation": {"model": "omni"}}, "moderation"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"made_up": 1}, "made_up"),
        ({"temperature": 9}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_is_not_offered_is_refused_by_name(
    http: httpx.Client, change: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        body = {"messages": HELLO, "stream": stream, **change}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"] == param
        assert answer.headers["x-request-id"]


def test_what_changes_nothing_is_accepted(http: httpx.Client) -> None:
    body = {
        "messages": [{"role": "developer", "content": "Be short.", "name": "me"}, *HELLO],
        "max_tokens": 1,
        "n": 1,
        "tools": [],
        "tool_choice": "none",
        "logprobs": False,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "store": False,
        "service_tier": "auto",
        "modalities": ["text"],
        "verbosity": "medium",
        "parallel_tool_calls": False,
        "prediction": {"type": "content", "content": "Xin"},
        "safety_identifier": "s1",
        "prompt_cache_key": "k1",
        "prompt_cache_options": {"mode": "implicit"},
        "prompt_cache_retention": "24h",
        "user": "u1",
        "metadata": {"a": "b"},
        "stop": None,
        "seed": None,
        "top_k": None,
    }
    assert http.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"messages": NaN}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b"[" * 100_000,
        b'{"temperature": 1e999, "messages": [{"role": "user", "content": "x"}]}',
    ],
    ids=range(8),
)
def test_bodies_that_are_not_what_they_should_be(http: httpx.Client, raw: bytes) -> None:
    answer = http.post("/v1/chat/completions", content=raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_errors_as_the_sdk_sees_them(client: OpenAI, running: ServerProcess) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature=9"):
        client.chat.completions.create(model="any", messages=HELLO, temperature=9)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "mũ bảo hiểm " * 3000}]
        )
    assert refused.value.code == "context_length_exceeded"
    assert "context is 4096" in str(refused.value)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another/model")
    with (
        OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_paths_methods_and_ids(http: httpx.Client) -> None:
    assert http.get("/nowhere").json()["error"]["code"] == "not_found"
    wrong_method = http.get("/v1/chat/completions")
    assert wrong_method.status_code == 405
    assert "error" in wrong_method.json()
    assert http.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == (
        "mine-1"
    )
    assert "/v1/chat/completions" in http.get("/openapi.json").json()["paths"]


def test_a_body_that_is_too_large(http: httpx.Client) -> None:
    answer = http.post("/v1/generate", content=b" " * (16 * 2**20 + 1))
    assert answer.status_code == 413
    assert "16 MiB" in answer.json()["error"]["message"]


def test_queue_and_disconnects_of_streams(running: ServerProcess, http: httpx.Client) -> None:
    before = _counters(http)
    body = ENDLESS | {"stream": True}
    with (
        http.stream("POST", "/v1/chat/completions", json=body) as first,
        http.stream("POST", "/v1/chat/completions", json=body) as second,
    ):
        assert (first.status_code, second.status_code) == (200, 200)
        for stream in (False, True):
            refused = http.post("/v1/chat/completions", json=ENDLESS | {"stream": stream})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "queue_full"
        running.until(lambda _, answer: answer["queue"] == {"running": 1, "waiting": 1, "limit": 1})
    _idle(running)
    after = _counters(http)
    cancelled = 'requests_total{finished_reason="cancelled"}'
    assert after[cancelled] - before[cancelled] == 2
    assert after["generation_tokens_total"] - before["generation_tokens_total"] < 4000


def test_disconnect_of_a_plain_request(running: ServerProcess, http: httpx.Client) -> None:
    before = _counters(http)
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        body = json.dumps(ENDLESS).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        running.until(lambda _, answer: answer["queue"]["running"] == 1)
    _idle(running)
    after = _counters(http)
    cancelled = 'requests_total{finished_reason="cancelled"}'
    assert after[cancelled] - before[cancelled] == 1
    assert after["generation_tokens_total"] - before["generation_tokens_total"] < 4000


def test_nothing_was_logged_that_users_must_not_see(running: ServerProcess) -> None:
    assert KEY not in running.output()
    assert "LLM_OFFLINE_API_KEY=****" in running.output()
    assert "Traceback" not in running.output()
