"""What must not hurt the server: a real one, with another request running undisturbed meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.llm_offline.bystander import alone, bystander
from tests.llm_offline.leaving import unread
from tests.llm_offline.processes import ServerProcess, server

HELLO: list[Any] = [{"role": "user", "content": "Xin chào 😀"}]
CHAT = "/v1/chat/completions"
ANSWERS = {200, 429}


@pytest.fixture(scope="module")
def running(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--dtype", "fp32"]
    # Two requests of full length fit; bystanders and victims are batched.
    flags += ["--max-queue", "32", "--max-batch", "4", "--kv-memory", "0.004"]
    with server(tmp_path_factory.mktemp("server"), *flags) as process:
        yield process.until_ready()


@pytest.fixture
def http(running: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=90) as client:
        yield client


def _bystander(http: httpx.Client) -> AbstractContextManager[None]:
    return bystander(str(http.base_url).rstrip("/"))


def _idle(running: ServerProcess) -> dict[str, Any]:
    return running.until(
        lambda _, answer: answer["queue"]["running"] == answer["queue"]["waiting"] == 0
    )


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"messages": [{"role": "user", "content": "mũ bảo hiểm " * 3000}]}, 400),
        ({"temperature": 0}, 200),
        ({"temperature": 1}, 200),
        ({"temperature": 1e-9}, 200),
        ({"temperature": 100}, 400),
        ({"top_p": 0}, 200),
        ({"top_k": 10**9}, 200),
        ({"min_p": 1}, 200),
        ({"repetition_penalty": 1e-9, "presence_penalty": -2}, 200),
        ({"logit_bias": {str(token): -100 for token in range(500)}}, 200),
        ({"seed": -(10**40)}, 200),
        ({"messages": [{"role": "user", "content": ""}]}, 200),
        ({"stop": ["x"] * 10_000}, 400),
        ({"stop": ["x" * 1000] * 16}, 200),
        ({"n": 16}, 200),
        ({"n": 10**9}, 400),
        ({"max_tokens": 10**30}, 200),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}, 400),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}},
            400,
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_strange_requests(http: httpx.Client, change: dict[str, Any], status: int) -> None:
    with _bystander(http):
        body = {"messages": HELLO, "max_tokens": 4, **change}
        answer = http.post(CHAT, json=body)
        assert answer.status_code == status, answer.text
        assert "Traceback" not in answer.text
        if status == 400:
            assert answer.json()["error"]["message"]


@pytest.mark.parametrize("raw", [b'"temperature": NaN', b'"temperature": Infinity'])
def test_numbers_that_are_none(http: httpx.Client, raw: bytes) -> None:
    with _bystander(http):
        body = b'{"messages": [{"role": "user", "content": "x"}], ' + raw + b"}"
        assert http.post(CHAT, content=body).status_code == 400


@pytest.mark.parametrize(
    "change",
    [
        b'"messages": [{"role": "user", "content": "\\ud83d"}]',
        b'"stop": "\\udc00"',
        b'"user": "\\uDFFF"',
        b'"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": '
        b'["\\ud800"]}}}',
    ],
)
def test_a_lone_surrogate(http: httpx.Client, change: bytes) -> None:
    with _bystander(http):
        body = b'{"messages": [{"role": "user", "content": "x"}], ' + change + b"}"
        answer = http.post(CHAT, content=body)
        assert answer.status_code == 400
        assert "half of a surrogate pair" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/generate"])
def test_an_empty_prompt(http: httpx.Client, path: str) -> None:
    """There is still the token that begins a text."""
    with _bystander(http):
        answer = http.post(path, json={"prompt": "", "max_tokens": 2, "temperature": 0})
        assert answer.status_code == 200
        assert answer.json()["usage"]["prompt_tokens"] == 1


def test_the_counts_of_a_prompt_that_is_too_long(http: httpx.Client) -> None:
    prompt = "mũ bảo hiểm " * 3000
    with _bystander(http):
        answer = http.post("/v1/completions", json={"prompt": prompt})
    count = http.post("/tokenize", json={"text": prompt}).json()["count"] + 1
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(
        f"the prompt has {count} tokens and this server's context is 4096"
    )


NODE = {
    "type": "object",
    "properties": {"next": {"$ref": "#/$defs/node"}},
    "required": ["next"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        {"type": "array", "items": {"type": "null"}, "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
    ],
    ids=["nesting", "items", "letters"],
)
def test_a_schema_that_never_ends(http: httpx.Client, schema: dict[str, Any]) -> None:
    """The text is cut at max_tokens, nothing else."""
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    with _bystander(http):
        body = {"messages": HELLO, "max_tokens": 50, "response_format": form}
        answer = http.post(CHAT, json=body)
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(5000)}},
        {"enum": [f"word {n}" for n in range(100_000)]},
        {"type": "integer", "multipleOf": 1_000_003},
    ],
    ids=["properties", "words", "multiples"],
)
def test_a_schema_that_is_too_much(http: httpx.Client, schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    with _bystander(http):
        answer = http.post(CHAT, json={"messages": HELLO, "response_format": form})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "response_format"


@pytest.mark.parametrize("liked", [" ", "\n", "0", "[", "a"])
def test_a_model_that_has_lost_its_way_still_ends_its_json(http: httpx.Client, liked: str) -> None:
    """White space, digits and brackets that it would write for ever are bounded."""
    tokens = http.post("/tokenize", json={"text": liked}).json()["tokens"]
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 50},
            "amount": {"type": "integer", "minimum": 3},
            "share": {"type": "number"},
        },
        "required": ["name", "amount", "share"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    body = {"messages": HELLO, "max_tokens": 3000, "response_format": form, "temperature": 0}
    with _bystander(http):
        answer = http.post(CHAT, json=body | {"logit_bias": {str(tokens[0]): 100}}).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert json.loads(answer["choices"][0]["message"]["content"])["name"] is not None


def test_more_than_the_memory_holds_waits(running: ServerProcess, http: httpx.Client) -> None:
    """Four long prompts where the cache holds two: all are answered, one after the other."""
    body = {"messages": [{"role": "user", "content": "mũ bảo hiểm " * 700}], "max_tokens": 40}
    body["temperature"] = 0  # which never ends the text
    with _bystander(http), ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: http.post(CHAT, json=body), range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert all(answer.json()["usage"]["completion_tokens"] == 40 for answer in answers)
    _idle(running)


def test_more_than_the_memory_holds_is_refused_once_the_queue_is_full(
    running: ServerProcess, http: httpx.Client
) -> None:
    body = {"messages": [{"role": "user", "content": "mũ bảo hiểm " * 700}], "max_tokens": 3}
    with _bystander(http), ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: http.post(CHAT, json=body), range(50)))
    assert {answer.status_code for answer in answers} == ANSWERS
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    _idle(running)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tokens", [1, 3000], ids=["short prompt", "long prompt"])
def test_clients_that_go_away(
    running: ServerProcess, http: httpx.Client, stream: bool, tokens: int
) -> None:
    alone(running.url)  # what the bystander is to say, before anybody else runs
    before = _cancelled(http)
    body = {
        "messages": [{"role": "user", "content": " mũ" * tokens}],
        "temperature": 0,
        "max_tokens": 4000 - tokens,
        "stream": stream,
    }
    with ExitStack() as leaving:
        leaving.enter_context(unread(running, CHAT, body))
        running.until(lambda _, answer: answer["queue"]["running"] == 1)
        with _bystander(http):
            leaving.close()
    _idle(running)
    assert _cancelled(http) == before + 1


def _cancelled(http: httpx.Client) -> float:
    name = 'llm_offline_requests_total{finished_reason="cancelled"}'
    lines = http.get("/metrics").text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


SCHEMA = {"enum": ["đỏ", "xanh", "vàng", "một câu dài hơn"]}
KINDS: list[dict[str, Any]] = [
    {},
    {"frequency_penalty": 1, "repetition_penalty": 1.2, "top_p": 0.9},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
]


def test_two_hundred_clients_at_once(running: ServerProcess, http: httpx.Client) -> None:
    """Each is answered or told when to come back; a seed says the same in any company."""
    gate = threading.Barrier(200)
    body = {"messages": HELLO, "max_tokens": 20, "seed": 1}

    def ask(number: int) -> tuple[int, httpx.Response]:
        kind = number % len(KINDS)
        gate.wait(60)
        return kind, httpx.post(running.url + CHAT, json=body | KINDS[kind], timeout=90)

    alone = [http.post(CHAT, json=body | kind).json() for kind in KINDS]
    with _bystander(http), ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(ask, range(200)))
    assert {answer.status_code for _, answer in answers} == ANSWERS
    for kind, answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
        else:
            assert answer.json()["choices"] == alone[kind]["choices"]
    _idle(running)


def test_nothing_of_it_was_a_failure(running: ServerProcess) -> None:
    _, health = running.health()
    assert health["step_failures"] == 0
    assert "Traceback" not in running.output()
