"""Chats that must not hurt the server, whose template takes arguments apart; beside another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.llm_offline.bystander import bystander
from tests.llm_offline.processes import ServerProcess, server

CHAT = "/v1/chat/completions"
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}"
    "{% for key, value in call.function.arguments | items %}"
    "{% if key == 'divided' %}{{ 1 // value }}{% endif %}<{{ key }}>{{ value }}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
HELLO: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def running(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    template = folder / "template.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--dtype", "fp32"]
    with server(folder, *flags, "--chat-template", str(template)) as process:
        yield process.until_ready()


@pytest.fixture
def client(running: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def _called(arguments: str) -> list[Any]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "1", "content": "x"}
    return [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, result]


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def _tool(parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    function = {"name": "f", "parameters": parameters, **more}
    return {"messages": HELLO, "tools": [{"type": "function", "function": function}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        *({"messages": _called(a)} for a in ("[1]", "5", '"s"', "[" * 100_000)),
        {"messages": _called(r'{"x": "\ud800"}')},
        {"messages": _called('{"x": NaN}')},
        {"messages": _called('{"divided": 0}')},
        {"messages": _called('{"divided": "s"}')},
        {"messages": [*HELLO, {"role": "tool", "tool_call_id": "1", "content": "x", "foo": 1}]},
        _tool(_nested(300)),
        _tool(_nested(300), strict=True),
        _tool({"type": "array"}),
        {"messages": HELLO, "metadata": [[]] * 200_000},
        {"messages": HELLO * 20_000},
    ],
    ids=lambda body: json.dumps(body)[-60:],
)
def test_what_is_refused(running: ServerProcess, body: dict[str, Any], stream: bool) -> None:
    with bystander(running.url):
        answer = httpx.post(running.url + CHAT, json=body | {"stream": stream}, timeout=60)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert 10 < len(error["message"]) < 400


@pytest.mark.parametrize(
    "arguments", ["", "null", "[]", "{}", '{"x": [{"y": null}]}', r'{"x": "\ud83d\ude00"}']
)
def test_what_is_taken(client: OpenAI, arguments: str) -> None:
    """As the SDK sends it."""
    said = client.chat.completions.create(
        model="any", messages=_called(arguments), max_tokens=2, temperature=0
    )
    assert said.choices[0].finish_reason == "length"


def test_a_refusal_as_the_sdk_sees_it(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="must be a JSON object") as refused:
        client.chat.completions.create(model="any", messages=_called("[1]"), stream=True)
    assert refused.value.param == "messages[1].tool_calls[0].function.arguments"


def test_nothing_of_it_was_a_failure(running: ServerProcess) -> None:
    _, health = running.health()
    assert health["step_failures"] == 0
    assert "Traceback" not in running.output()
