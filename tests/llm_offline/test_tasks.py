"""The tasks, asked of a real server process whose model says nonsense: shapes, limits, usage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openai import OpenAI

from llm_offline.loaded import LoadedModel
from tests.llm_offline.processes import ServerProcess, server
from tests.tiny_model import SENTENCES

TEXT = " ".join(SENTENCES)
LONG = "\n\n".join(f"{number}. {TEXT}" for number in range(16))
MESSAGES = [
    {"role": "user", "content": "How many days of leave?"},
    {"role": "assistant", "content": "Twelve."},
]
PASSAGES: list[Any] = [
    {"text": " ".join(SENTENCES[:4]), "source": {"file": "handbook.md", "page": 2}},
    " ".join(SENTENCES[4:]),
    " \n",
]
COMPRESS = {"passages": PASSAGES, "question": "What is the speed limit?"}
EXTRACT = {"text": TEXT, "parameters": {"days": "integer: of leave", "paid": "boolean"}}
CONTEXT = 1024


@pytest.fixture(scope="module")
def running(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--dtype", "fp32"]
    flags += ["--max-context", str(CONTEXT), "--max-batch", "2", "--max-queue", "1"]
    with server(tmp_path_factory.mktemp("server"), *flags) as process:
        yield process.until_ready()


@pytest.fixture
def http(running: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


def _ok(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _streamed(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = http.post(path, json=body | {"stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n") if line]
    assert all(line.startswith(("data: ", ":")) for line in lines)
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line[6:]) for line in lines[:-1] if line.startswith("data")]
    assert all(chunk["object"].endswith(".chunk") for chunk in chunks)
    return chunks


def _said(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


def _is_whole(usage: dict[str, Any]) -> bool:
    total = usage["prompt_tokens"] + usage["completion_tokens"]
    return bool(usage["total_tokens"] == total and usage["prompt_tokens"] > 0)


@pytest.mark.parametrize("source", [{"text": TEXT}, {"messages": MESSAGES}], ids=["text", "chat"])
def test_a_summary_plain_and_streamed(
    http: httpx.Client, tiny_folder: Path, source: dict[str, Any]
) -> None:
    body = source | {"length": "short", "max_tokens": 20}
    plain = _ok(http.post("/summarize", json=body))
    assert set(plain) == {
        "summary",
        "pieces",
        "incomplete_parts",
        "usage",
        "finish_reason",
        "model",
    }
    assert (plain["pieces"], plain["incomplete_parts"]) == (1, 0)
    assert (plain["finish_reason"], plain["model"]) == ("length", tiny_folder.name)
    assert plain["usage"]["completion_tokens"] == 20
    assert _is_whole(plain["usage"])
    chunks = _streamed(http, "/summarize", body | {"stream_options": {"include_usage": True}})
    # Without a temperature the same request gets the same summary.
    assert _said(chunks) == plain["summary"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-2]["pieces"] == 1
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == plain["usage"]["total_tokens"]
    assert all("usage" not in chunk for chunk in _streamed(http, "/summarize", body))


def test_a_text_longer_than_the_context(http: httpx.Client) -> None:
    tokens = _ok(http.post("/tokenize", json={"text": LONG}))["count"]
    assert tokens > 2 * CONTEXT
    body = {"text": LONG, "length": 30, "max_tokens": 10, "temperature": 1, "seed": 1}
    found = _ok(http.post("/summarize", json=body))
    assert found["pieces"] > 2
    assert found["incomplete_parts"] <= found["usage"]["completion_tokens"]
    # All of it was read.
    assert found["usage"]["prompt_tokens"] > tokens
    # What the instructions have in common is computed once.
    assert found["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    chunks = _streamed(http, "/summarize", body)
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert chunks[-1]["pieces"] == found["pieces"]


def test_a_stop_string_ends_a_summary(http: httpx.Client) -> None:
    body: dict[str, Any] = {"text": TEXT, "max_tokens": 30}
    whole = _ok(http.post("/summarize", json=body))["summary"]
    middle = whole[5:8]
    cut = _ok(http.post("/summarize", json=body | {"stop": [middle]}))
    assert cut["summary"] == whole[: whole.index(middle)]
    assert cut["finish_reason"] == "stop"


@pytest.mark.parametrize("limit", [{}, {"target_tokens": 40}, {"ratio": 0.2}], ids=str)
def test_passages_are_cut_down_to_sentences_of_theirs(
    http: httpx.Client, limit: dict[str, Any]
) -> None:
    found = 0
    for seed in range(6):
        body = COMPRESS | limit | {"temperature": 1.5, "seed": seed}
        plain = _ok(http.post("/compress", json=body))
        found += len(plain["passages"])
        assert [one["index"] for one in plain["passages"]] == sorted(
            {one["index"] for one in plain["passages"]}
        )
        for one in plain["passages"]:
            given = PASSAGES[one["index"]]
            text = given if isinstance(given, str) else given["text"]
            assert one["source"] == (None if isinstance(given, str) else given["source"])
            assert one["text"] == "\n".join(text[start:end] for start, end in one["spans"])
            assert one["tokens"] == _ok(http.post("/tokenize", json={"text": one["text"]}))["count"]
        assert plain["text"] == "\n\n".join(one["text"] for one in plain["passages"])
        assert plain["tokens_after"] == sum(one["tokens"] for one in plain["passages"])
        assert plain["tokens_after"] <= (plain["target_tokens"] or plain["tokens_before"])
        assert _is_whole(plain["usage"])
        chunks = _streamed(http, "/compress", body)
        assert _said(chunks) == plain["text"]
        shown = [one for chunk in chunks for one in chunk["choices"] if one.get("passage")]
        assert [one["passage"] for one in shown] == plain["passages"]
        assert chunks[-1]["tokens_after"] == plain["tokens_after"]
    assert found


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "vehicle": {"enum": ["car", "motorbike", None]},
        "amount": {"type": ["integer", "null"], "minimum": 0, "maximum": 9999},
        "where": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}], "default": None},
    },
    "required": ["vehicle", "amount"],
    "$defs": {
        "Place": {
            "type": "object",
            "properties": {"page": {"type": ["integer", "null"]}},
            "required": ["page"],
        },
    },
}


@pytest.mark.parametrize("wish", [{"schema": SCHEMA}, EXTRACT], ids=["schema", "map"])
def test_what_is_extracted_validates(http: httpx.Client, wish: dict[str, Any]) -> None:
    for seed in range(5):
        body = {"text": TEXT} | wish | {"temperature": 1, "seed": seed}
        found = _ok(http.post("/extract-parameters", json=body))
        assert set(found) == {"parameters", "usage", "finish_reason", "model"}
        assert _is_whole(found["usage"])
        if "schema" in wish:
            jsonschema.validate(found["parameters"], SCHEMA)
            assert set(found["parameters"]) == {"vehicle", "amount", "where"}
        else:
            assert set(found["parameters"]) == {"days", "paid"}
            assert found["parameters"]["paid"] in (True, False, None)
    body = {"messages": MESSAGES, "parameters": EXTRACT["parameters"], "stream": False}
    assert _ok(http.post("/extract-parameters", json=body))["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/summarize", {}, "text"),
        ("/summarize", {"text": " "}, "text"),
        ("/summarize", {"text": 3}, "text"),
        ("/summarize", {"text": "x", "messages": MESSAGES}, "messages"),
        ("/summarize", {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]"),
        ("/summarize", {"text": "x", "length": "tiny"}, "length"),
        ("/summarize", {"text": "x", "length": 0}, "length"),
        ("/summarize", {"text": "x", "temperature": 9}, "temperature"),
        ("/summarize", {"text": "x", "max_tokens": 0}, "max_tokens"),
        ("/summarize", {"text": "x", "made_up": 1}, "made_up"),
        ("/summarize", {"text": "x", "n": 2}, "n"),
        ("/summarize", {"text": "x", "tools": [1]}, "tools"),
        ("/compress", {"question": "x"}, "passages"),
        ("/compress", {"passages": [], "question": "x"}, "passages"),
        ("/compress", {"passages": [3], "question": "x"}, "passages"),
        ("/compress", {"passages": ["x"]}, "question"),
        ("/compress", {"passages": ["x"], "question": " "}, "question"),
        ("/compress", COMPRESS | {"question": "why " * 3000}, "question"),
        ("/compress", COMPRESS | {"target_tokens": 9, "ratio": 0.5}, "ratio"),
        ("/compress", COMPRESS | {"ratio": 1.5}, "ratio"),
        ("/compress", COMPRESS | {"target_tokens": 2}, "target_tokens"),
        ("/compress", COMPRESS | {"stop": "x"}, "stop"),
        ("/extract-parameters", {"text": "x"}, "parameters"),
        ("/extract-parameters", EXTRACT | {"schema": SCHEMA}, "schema"),
        ("/extract-parameters", {"text": "x", "parameters": {}}, "parameters"),
        ("/extract-parameters", {"text": "x", "parameters": {"a": 1}}, "parameters.a"),
        ("/extract-parameters", {"text": "x", "schema": {"type": "wizard"}}, "schema"),
        (
            "/extract-parameters",
            {"text": "x", "parameters": {"a": {"type": "wizard"}}},
            "parameters",
        ),
        (
            "/extract-parameters",
            {
                "text": "x",
                "schema": {
                    "type": "object",
                    "properties": {"a": {"type": "string"}},
                    "required": ["a"],
                },
            },
            "schema.properties.a",
        ),
        ("/extract-parameters", EXTRACT | {"text": LONG}, "text"),
        ("/extract-parameters", EXTRACT | {"max_tokens": 1}, "max_tokens"),
        ("/extract-parameters", EXTRACT | {"stream": True}, "stream"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/detokenize", {"tokens": [5, 100_000]}, "tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [10**30]}, "tokens[0]"),
    ],
    ids=str,
)
def test_refusals(http: httpx.Client, path: str, body: dict[str, Any], param: str) -> None:
    streams = [{}, {"stream": True}] if path in ("/summarize", "/compress") else [{}]
    for stream in streams:
        answer = http.post(path, json=body | stream)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"] == param
        assert answer.headers["x-request-id"]
        assert "Traceback" not in answer.text


def test_a_client_that_goes_away_ends_all_the_calls(
    running: ServerProcess, http: httpx.Client
) -> None:
    body = {"text": LONG * 20, "stream": True}
    with http.stream("POST", "/summarize", json=body) as stream:
        assert stream.status_code == 200
        running.until(lambda _, answer: answer["queue"]["running"] == 2)
        # The task uses what places there are, and leaves those beyond its own to others.
        assert http.get("/metrics").status_code == 200
    running.until(lambda _, answer: answer["queue"] == {"running": 0, "waiting": 0, "limit": 1})
    finished = _ok(http.post("/summarize", json={"text": TEXT, "max_tokens": 3}))
    assert finished["usage"]["completion_tokens"] == 3


def test_generate_with_and_without_its_version(http: httpx.Client) -> None:
    body = {"prompt": "Every employee", "max_tokens": 8, "do_sample": False, "stream": False}
    same = [_ok(http.post(path, json=body)) for path in ("/generate", "/v1/generate")]
    assert same[0]["text"] == same[1]["text"]
    assert set(same[0]) == set(same[1])


@pytest.mark.parametrize(
    "text",
    ["", "Xin chào 😀", "  two  spaces\n", "<|eot_id|> special", TEXT, "e\u0301 条文"],
    ids=str,
)
def test_tokens_and_back(http: httpx.Client, text: str) -> None:
    tokens = _ok(http.post("/tokenize", json={"text": text}))["tokens"]
    found = _ok(http.post("/detokenize", json={"tokens": tokens}))
    assert found == {"text": text, "count": len(tokens)}


def test_special_tokens_there_and_back(http: httpx.Client, loaded: LoadedModel) -> None:
    asked = {"text": "Xin", "add_special_tokens": True}
    tokens = _ok(http.post("/tokenize", json=asked))["tokens"]
    assert tokens == loaded.text.encode("Xin")
    body: dict[str, Any] = {"tokens": tokens}
    assert _ok(http.post("/detokenize", json=body))["text"] == "<|begin_of_text|>Xin"
    body["skip_special_tokens"] = True
    assert _ok(http.post("/detokenize", json=body))["text"] == "Xin"


def test_text_offsets(running: ServerProcess, loaded: LoadedModel) -> None:
    prompt = "Mũ 😀"
    options: dict[str, Any] = {"model": "any", "prompt": prompt, "max_tokens": 24, "seed": 2}
    with OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client:
        plain = client.completions.create(**options, logprobs=0, n=2)
        for choice in plain.choices:
            found = choice.logprobs
            assert found is not None
            offsets, tokens = found.text_offset or [], found.tokens or []
            assert len(offsets) == len(tokens)
            assert offsets[0] == len(prompt)
            assert offsets == sorted(offsets)
            whole = prompt + choice.text
            for at, token in zip(offsets, tokens, strict=True):
                if "\N{REPLACEMENT CHARACTER}" not in token and not token.startswith("<|"):
                    assert whole[at:].startswith(token)
        streamed: dict[int, list[int]] = {0: [], 1: []}
        for chunk in client.completions.create(**options, logprobs=0, n=2, stream=True):
            for choice in chunk.choices:
                if choice.logprobs is not None:
                    streamed[choice.index] += choice.logprobs.text_offset or []
        for choice in plain.choices:
            assert choice.logprobs is not None
            assert streamed[choice.index] == choice.logprobs.text_offset


def test_the_document_describes_bodies_and_answers(http: httpx.Client) -> None:
    document = _ok(http.get("/openapi.json"))
    for path, answer in [
        ("/summarize", "Summary"),
        ("/compress", "Compressed"),
        ("/extract-parameters", "Extracted"),
    ]:
        described = document["paths"][path]["post"]
        assert described["requestBody"]["content"]["application/json"]["schema"]["properties"]
        content = described["responses"]["200"]["content"]
        assert content["application/json"]["schema"]["$ref"].endswith(f"/{answer}")
        assert ("text/event-stream" in content) == (path != "/extract-parameters")
    assert {"/generate", "/v1/generate", "/tokenize", "/detokenize"} <= set(document["paths"])
    assert "422" not in json.dumps(document["paths"]["/summarize"])


def test_nothing_failed_on_the_way(running: ServerProcess) -> None:
    assert "Traceback" not in running.output()
    assert "never retrieved" not in running.output()
