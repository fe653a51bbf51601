"""A tokenizer that was given a token which its model has no place for, asked on every way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from tests.llm_offline.bystander import bystander, error_of
from tests.llm_offline.processes import ServerProcess, server
from tests.tiny_model import CHAT_TEMPLATE, build_tiny_llama

WORD = "zzzzq"
TEXT = f"a {WORD} b"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": TEXT}]}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": TEXT}),
    ("/v1/generate", {"prompt": TEXT}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/summarize", {"text": TEXT}),
    ("/summarize", {"text": TEXT, "stream": True}),
    ("/summarize", CHAT),
    ("/extract-parameters", {"text": TEXT, "parameters": {"a": "integer"}}),
    ("/compress", {"passages": [f"{TEXT}. C d."], "question": "a?", "ratio": 0.5}),
    ("/v1/chat/completions", CHAT | {"response_format": {"type": "json_object"}}),
    ("/validate-model", {"prompt": TEXT}),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    model = build_tiny_llama(folder / "wide", context=1024, endless=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([WORD])
    tokenizer.save_pretrained(model)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    with server(folder, "--model", str(model), "--device", "cpu", "--dtype", "fp32") as process:
        yield process.until_ready()


@pytest.mark.parametrize(("path", "body"), ASKED, ids=lambda value: str(value)[:40])
def test_it_is_refused(running: ServerProcess, path: str, body: dict[str, Any]) -> None:
    with bystander(running.url):
        answer = httpx.post(running.url + path, json=body, timeout=60)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"].startswith("the prompt has the token ")
    assert "leave out what the tokenizer knows" in answer.json()["error"]["message"]


def test_it_is_refused_where_a_stream_has_begun(running: ServerProcess) -> None:
    """In the last of the pieces in which a long text is read."""
    body = {"text": "Xin chào. " * 1500 + TEXT, "stream": True, "max_tokens": 4}
    with (
        bystander(running.url),
        httpx.stream("POST", f"{running.url}/summarize", json=body, timeout=90) as answer,
    ):
        lines = list(answer.iter_lines())
    assert answer.status_code == 200
    assert error_of(lines)["message"].startswith("the prompt has the token ")


def test_it_cannot_be_made_likely(running: ServerProcess) -> None:
    url = f"{running.url}/tokenize"
    (token,) = httpx.post(url, json={"text": WORD}, timeout=60).json()["tokens"]
    body = {"prompt": "a", "max_tokens": 1, "logit_bias": {str(token): 1}}
    answer = httpx.post(f"{running.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "logit_bias"


def test_the_model_is_valid(running: ServerProcess) -> None:
    report = httpx.post(f"{running.url}/validate-model", json={}, timeout=60).json()
    assert report["valid"], report


def test_nothing_of_it_was_a_failure(running: ServerProcess) -> None:
    _, health = running.health()
    assert health["step_failures"] == 0
    assert "Traceback" not in running.output()
