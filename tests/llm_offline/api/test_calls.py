"""Calls found in what a model writes, and only there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from llm_offline.api import calls
from llm_offline.api.calls import WithCalls, calls_in
from llm_offline.engine.interface import TextDelta
from llm_offline.loaded import LoadedModel
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
        ('{"name": ["fine"], "parameters": {}}', []),
        ('{"name": {"fine": 1}, "parameters": {}}', []),
        ('{"name": null, "parameters": {}}', []),
        ('{"name": "fine", "parameters": {"x": NaN}}', []),
        ('{"name": "fine", "parameters": {"x": [-Infinity]}}', []),
        ('{"name": "fine", "parameters": {"x": 1e999}}', []),
        ('{"name": "fine", "parameters": {"x": ' + "9" * 5000 + "}}", []),
        ('{"name": "fine", "parameters": {"x": ' + "[" * 3000 + "]" * 3000 + "}}", []),
        (CALL.replace("xe máy", r"xe \ud83d\ude00"), ["fine"]),
    ],
    ids=range(22),
)
def test_calls(text: str, names: list[str]) -> None:
    found = calls_in(text, NAMES)
    assert [call.name for call in found] == names
    assert len({call.id for call in found}) == len(found)
    assert all(isinstance(json.loads(call.arguments), dict) for call in found)


@pytest.mark.parametrize("half", [r"\ud83d", r"\uDE00", r"\udc00\ud800"])
def test_half_a_surrogate_pair_in_a_call(half: str) -> None:
    """It is no character, and could be sent to nobody; what a call says else is not lost for it."""
    written = CALL.replace("xe máy", f'a{half}b", "{half}": "c')
    (call,) = calls_in(written, NAMES)
    call.arguments.encode()
    assert (
        json.loads(call.arguments)["vehicle"].strip("ab").strip("\N{REPLACEMENT CHARACTER}") == ""
    )
    assert '"a\N{REPLACEMENT CHARACTER}' in call.arguments


class Spoken:
    """A generation that says the given pieces."""

    prompt_tokens = 3
    is_closed = False
    is_whole = False

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

    async def aclose(self, *, is_whole: bool = False) -> None:
        self.is_closed = True
        self.is_whole |= is_whole


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


async def test_calls_after_words() -> None:
    marked = f"<tool_call>{CALL}</tool_call>"
    deltas = await _heard(["<think>Hm", "</think> I look.\n<tool", marked[5:], f"\n{marked}", ""])
    assert "".join(delta.text for delta in deltas) == "<think>Hm</think> I look.\n"
    assert deltas[0].text == "<think>Hm"
    assert [call.name for call in deltas[-1].tool_calls] == ["fine", "fine"]
    assert deltas[-1].finish_reason == "tool_calls"


async def test_a_mark_that_begins_no_call_is_text() -> None:
    for pieces in (["I <tool", "s> it", ""], ["I <tool_call>", " it", ""], ["I <tool_ca", ""]):
        deltas = await _heard(pieces)
        assert "".join(delta.text for delta in deltas) == "".join(pieces)
        assert deltas[-1].finish_reason == "stop"


async def test_a_text_that_may_make_one_call_ends_with_it() -> None:
    spoken = Spoken(["<tool_call>", CALL, "; ", CALL, "never read", ""])
    deltas = [delta async for delta in WithCalls(spoken, NAMES, several=False)]
    assert [len(delta.tool_calls) for delta in deltas] == [1]
    assert (deltas[0].text, deltas[0].finish_reason) == ("", "tool_calls")
    assert deltas[0].completion_tokens == 2
    assert spoken.is_whole


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "fine", "parameters": {"a": [' + "{}, " * 500 + "{}]}}",
        '{"name": "fine", "parameters": {"a": "}} \\" }{ \\\\"}}',
        '<|python_tag|> [{"name": "fine", "parameters": {}}',
        'I "look{.\n<tool_call>{"parameters": {"}": "\\\\"}, "name": "fine"}',
    ],
    ids=["long", "strings", "marks", "words"],
)
@pytest.mark.parametrize("size", [1, 3, 10_000])
async def test_a_long_call_is_read_once(
    monkeypatch: pytest.MonkeyPatch, text: str, size: int
) -> None:
    """And not at each of its braces, which would take the event loop's time."""
    reads = []
    monkeypatch.setattr(
        calls,
        "calls_in",
        lambda said, *args, **more: reads.append(said) or calls_in(said, *args, **more),
    )
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    spoken = Spoken([*pieces, " and so on", ""])
    deltas = [delta async for delta in WithCalls(spoken, NAMES, several=False)]
    assert len(reads) == 1
    assert [call.name for call in deltas[-1].tool_calls] == ["fine"]
    assert spoken.is_whole


async def test_calls_that_nobody_waits_for_are_given_up() -> None:
    spoken = Spoken([CALL, ""])
    await WithCalls(spoken, NAMES, several=False).aclose()
    assert (spoken.is_closed, spoken.is_whole) == (True, False)


async def test_calls_that_are_checked() -> None:
    for good in (True, False):
        spoken = Spoken([CALL, ""])
        (delta,) = [one async for one in WithCalls(spoken, NAMES, check=lambda _, good=good: good)]  # type: ignore[misc]
        assert (len(delta.tool_calls), delta.text) == ((1, "") if good else (0, CALL))


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


@pytest.fixture
def client(running: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def test_a_call_and_its_result(client: OpenAI) -> None:
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


class Vehicle(BaseModel):
    """What the fine is for."""

    kind: Literal["car", "motorbike"]


class Fine(BaseModel):
    """The fine for vehicles."""

    vehicle: Vehicle  # by $ref in the schema


def _brackets(loaded: LoadedModel) -> dict[str, int]:
    """Biases that make the model begin as calls and objects begin, wherever it may."""
    (token,) = loaded.text.encode("{", add_special_tokens=False)
    return {str(token): 100}


def test_strict_functions_as_the_sdk_parses_them(client: OpenAI, loaded: LoadedModel) -> None:
    options: dict[str, Any] = {
        "model": "any",
        "messages": HELLO,
        "tools": [openai.pydantic_function_tool(Fine, name="fine")],
        "logit_bias": _brackets(loaded),
        "max_tokens": 1000,
    }
    for more in ({}, {"parallel_tool_calls": False}):
        for seed in range(3):
            said = client.chat.completions.parse(**options, **more, seed=seed).choices[0]
            assert said.finish_reason == "tool_calls"
            calls = said.message.tool_calls or []
            assert calls
            assert len(calls) == 1 or not more
            assert all(isinstance(call.function.parsed_arguments, Fine) for call in calls)
    # What the SDK made of the answer comes back with the history.
    answered = [{"role": "tool", "tool_call_id": call.id, "content": "3"} for call in calls]
    again = client.chat.completions.create(
        model="any", messages=[*HELLO, said.message, *answered], max_tokens=1, temperature=0
    )
    assert again.choices[0].finish_reason == "length"
    with client.chat.completions.stream(**options, seed=1) as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.tool_calls
    assert isinstance(final.tool_calls[0].function.parsed_arguments, Fine)
    # Nobody asked for the schema: any text may come, and no grammar slows it down.
    free = options | {"tools": TOOLS, "max_tokens": 5}
    assert client.chat.completions.create(**free).choices[0].message.content == "{" * 5


def test_an_answer_of_a_schema_or_a_call(client: OpenAI, loaded: LoadedModel) -> None:
    options: dict[str, Any] = {
        "model": "any",
        "messages": HELLO,
        "tools": [openai.pydantic_function_tool(Fine, name="fine")],
        "response_format": Vehicle,
    }
    for key, other, kind in (("name", "kind", Fine), ("kind", "name", Vehicle)):
        own, others = (loaded.text.encode(k, add_special_tokens=False) for k in (key, other))
        biases = {str(token): 100 for token in {*own} - {*others}}
        said = client.chat.completions.parse(**options, logit_bias=biases).choices[0].message
        call = (said.tool_calls or [None])[0]
        assert isinstance(call.function.parsed_arguments if call else said.parsed, kind)
    required = client.chat.completions.parse(**options, tool_choice="required").choices[0]
    assert required.finish_reason == "tool_calls"
    wrong: dict[str, Any] = {"type": "x"}
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.chat.completions.create(
            model="any",
            messages=HELLO,
            tools=TOOLS,
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": wrong}},
            tool_choice="required",
        )
    function: Any = {"name": "f", "strict": True, "parameters": wrong}
    with pytest.raises(openai.BadRequestError, match="tools: the schema of the function"):
        client.chat.completions.create(
            model="any", messages=HELLO, tools=[{"type": "function", "function": function}]
        )


def test_how_many_calls(client: OpenAI, loaded: LoadedModel) -> None:
    (more,) = loaded.text.encode(";", add_special_tokens=False)
    options: dict[str, Any] = {
        "model": "any",
        "messages": HELLO,
        "tools": TOOLS,
        "logit_bias": {str(more): 100},
        "max_tokens": 1000,
    }
    for choice, parallel, several in (
        ("required", None, True),
        ("required", True, True),
        ("required", False, False),
        ({"type": "function", "function": {"name": "fine"}}, None, False),
    ):
        wishes = {} if parallel is None else {"parallel_tool_calls": parallel}
        said = client.chat.completions.create(**options, **wishes, tool_choice=choice).choices[0]
        assert said.finish_reason == "tool_calls"
        assert (len(said.message.tool_calls or []) > 1) is several
