"""Calls found in what a model writes, and only there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from llm_offline.api.calls import WithCalls, calls_in
from llm_offline.engine.interface import TextDelta
from tests.llm_offline.processes import ServerProcess, server

NAMES = {"fine", "weather"}
CALL = '{"name": "fine", "parameters": {"vehicle": "xe máy"}}'


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (CALL, ["fine"]),
        (f"\n {CALL} ", ["fine"]),
        (f"<|python_tag|>{CALL}; {CALL}", ["fine", "fine"]),
        ('<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>', ["weather"]),
        (f"[{CALL}]", ["fine"]),
        ('{"name": "rob_the_bank", "parameters": {}}', []),
        ('{"name": "fine", "parameters": "none"}', []),
        ('{"name": "fine"}', []),
        (f"{CALL} and so on", []),
        (CALL[:-1], []),
        ("{" * 50_000, []),
        ("", []),
        ("no call", []),
    ],
    ids=range(13),
)
def test_calls(text: str, names: list[str]) -> None:
    found = calls_in(text, NAMES)
    assert [call.name for call in found] == names
    assert len({call.id for call in found}) == len(found)
    assert all(isinstance(json.loads(call.arguments), dict) for call in found)


class Spoken:
    """A generation that says the given pieces."""

    prompt_tokens = 3

    def __init__(self, pieces: Sequence[str]) -> None:
        last = len(pieces) - 1
        self._deltas = iter(
            TextDelta(piece, number + 1, "stop" if number == last else None)
            for number, piece in enumerate(pieces)
        )

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        try:
            return next(self._deltas)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None: ...


async def _heard(pieces: Sequence[str]) -> list[TextDelta]:
    return [delta async for delta in WithCalls(Spoken(pieces), NAMES)]


async def test_text_is_passed_on_as_it_comes() -> None:
    deltas = await _heard(["  ", "Xin ", "{chào}", ""])
    assert [delta.text for delta in deltas] == ["  Xin ", "{chào}", ""]
    assert deltas[-1].finish_reason == "stop"


async def test_a_call_is_held_back_until_it_is_whole() -> None:
    (delta,) = await _heard([CALL[:9], CALL[9:20], CALL[20:], ""])
    assert (delta.text, delta.finish_reason) == ("", "tool_calls")
    assert json.loads(delta.tool_calls[0].arguments) == {"vehicle": "xe máy"}


async def test_json_that_is_no_call_is_text() -> None:
    (delta,) = await _heard(['{"a"', ": 1}"])
    assert (delta.text, delta.finish_reason, delta.tool_calls) == ('{"a": 1}', "stop", ())


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "fine",
            "description": "The fine for a vehicle.",
            "parameters": {
                "type": "object",
                "properties": {"vehicle": {"enum": ["car", "motorbike"]}},
                "required": ["vehicle"],
                "additionalProperties": False,
            },
        },
    }
]
HELLO: list[Any] = [{"role": "user", "content": "How much?"}]


@pytest.fixture(scope="module")
def running(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ("--model", str(tiny_folder), "--device", "cpu", "--chat-template", "llama3")
    with server(tmp_path_factory.mktemp("server"), *flags) as process:
        yield process.until_ready()


def test_a_call_and_its_result(running: ServerProcess) -> None:
    with OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client:
        options: dict[str, Any] = {"model": "any", "tools": TOOLS, "seed": 1}
        choice = client.chat.completions.create(
            **options, messages=HELLO, tool_choice="required"
        ).choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        call: Any = (choice.message.tool_calls or [])[0]
        assert json.loads(call.function.arguments)["vehicle"] in ("car", "motorbike")
        chunks = client.chat.completions.create(
            **options,
            messages=HELLO,
            stream=True,
            tool_choice={"type": "function", "function": {"name": "fine"}},
        )
        choices = [chunk.choices[0] for chunk in chunks]
        assert choices[-1].finish_reason == "tool_calls"
        streamed = [one for choice in choices for one in choice.delta.tool_calls or []]
        assert [one.index for one in streamed] == [0]
        said = client.chat.completions.create(
            **options,
            messages=[
                *HELLO,
                choice.message,
                {"role": "tool", "tool_call_id": call.id, "content": "200.000 đồng"},
            ],
            max_tokens=3,
        )
        assert said.choices[0].finish_reason == "length"
