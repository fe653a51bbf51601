"""An answer as bytes, and back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from rag_backend.answering.recording import Recording, load, record
from rag_backend.answering.wire import ChunkWriter
from rag_backend.llm.complete import fold
from rag_backend.llm.provider import Chunk

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def chunks(finish: str = "stop", text: str = "Mười hai\nngày [1].", **delta: Any) -> list[Chunk]:
    writer = ChunkWriter("local")
    writer.model = "tiny"
    citation = {"index": 1, "start_index": 0, "end_index": 3, "filename": "a.md", "page": None}
    return [
        writer.delta({"role": "assistant", "content": ""}),
        writer.delta({"content": text} | delta, logprobs={"content": [{"token": "M"}]}),
        writer.citations("", [citation | {"url": "http://here/v1/files/f/content"}]),
        writer.delta({}, finish),
        writer.usage(USAGE),
    ]


async def recorded(given: list[Chunk]) -> Recording:
    recording = await record(given)
    assert recording is not None
    read = load(recording.dump())
    assert read == recording
    return read


def without_what_is_new(answer: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in answer.items() if k not in ("id", "created")}


async def test_plain_and_streamed_are_what_they_were() -> None:
    given = chunks()
    recording = await recorded(given)
    again = [c async for c in recording.replay()]
    assert list(map(without_what_is_new, again)) == list(map(without_what_is_new, given))
    assert [list(c) for c in again] == [list(c) for c in given], "the fields' order too"

    async def first() -> Any:
        for chunk in given:
            yield chunk

    folded = await fold(first())
    completion = orjson.loads(recording.completion())
    assert list(completion) == list(folded)
    assert without_what_is_new(completion) == without_what_is_new(folded)
    assert completion["id"] not in (given[0]["id"], again[0]["id"])
    assert len({c["id"] for c in again}) == 1


async def test_events() -> None:
    recording = await recorded(chunks())
    lines = recording.events(usage=True).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [orjson.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert events[-1]["usage"] == USAGE
    assert len({event["id"] for event in events}) == 1
    assert '"usage"' not in recording.events(usage=False).decode()
    assert recording.events(usage=False).count(b"data: ") == len(events)


@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls"])
async def test_whole_answers_are_kept(finish: str) -> None:
    assert await record(chunks(finish)) is not None


async def test_tool_calls_are_kept() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    recording = await recorded(chunks("tool_calls", "", tool_calls=[call]))
    (choice,) = orjson.loads(recording.completion())["choices"]
    assert choice["message"]["tool_calls"][0]["id"] == "a"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(chunks("content_filter"), id="filtered"),
        pytest.param(chunks(text=""), id="empty"),
        pytest.param(chunks()[:-2], id="cut"),
        pytest.param(chunks()[:-1], id="uncounted"),
    ],
)
async def test_others_are_not(given: list[Chunk]) -> None:
    assert await record(given) is None


@pytest.mark.parametrize("value", [b"", b"{}", b"[]\n{}", b"\x00", b'{"provider": "x"}\n{}', b"1"])
def test_what_is_no_recording_is_none(value: bytes) -> None:
    assert load(value) is None
