"""A stream folded into one `chat.completion`, once, for every provider and for the pipeline."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from rag_backend.errors import UpstreamBroken
from rag_backend.llm.provider import ChatRequest, Chunk, LLMProvider

_HEAD = ("id", "created", "model", "provider")


async def complete(provider: LLMProvider, request: ChatRequest) -> dict[str, Any]:
    """A provider's whole answer; see `fold`."""
    return await fold(provider.stream(request))


async def fold(chunks: AsyncGenerator[Chunk, None]) -> dict[str, Any]:
    """The chunks of one answer as one `chat.completion`; the stream is closed in any case.

    `usage` is None where none was sent, `citations` is empty where there are none.

    Raises:
        UpstreamError: what the stream raises; UpstreamBroken too when it ends unfinished.
    """
    head: dict[str, Any] = {}
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    message["annotations"] = []
    calls: dict[int, dict[str, Any]] = {}
    logprobs: dict[str, Any] = {}
    finish_reason: str | None = None
    last: dict[str, Any] = {"usage": None, "citations": []}
    async with aclosing(chunks):
        async for chunk in chunks:
            head = {key: chunk[key] for key in _HEAD if chunk.get(key) is not None} | head
            last |= {key: chunk[key] for key in last if chunk.get(key)}
            for choice in chunk.get("choices") or ():
                _take_delta(message, calls, choice.get("delta") or {})
                _extend(logprobs, choice.get("logprobs") or {})
                finish_reason = choice.get("finish_reason") or finish_reason
    if finish_reason is None:
        raise UpstreamBroken("The model server ended its answer in the middle: ask again.")
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    message["content"] = message["content"] or (None if calls else "")
    spoken = {"content": None, "refusal": None} | logprobs if logprobs else None
    choice = {"index": 0, "message": message, "logprobs": spoken}
    return {
        "id": head.get("id"),
        "object": "chat.completion",
        **{key: head.get(key) for key in _HEAD[1:]},
        "choices": [choice | {"finish_reason": finish_reason}],
        **last,
    }


def _take_delta(
    message: dict[str, Any], calls: dict[int, dict[str, Any]], delta: Mapping[str, Any]
) -> None:
    for key, value in delta.items():
        if key == "tool_calls":
            for part in value or ():
                _take_call(calls, part)
        elif key != "role":
            _extend(message, {key: value})


def _extend(grown: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Texts (content, refusal, what thinking models add) and lists go on where they stopped."""
    for key, value in part.items():
        if isinstance(value, str):
            grown[key] = (grown.get(key) or "") + value
        elif isinstance(value, list):
            grown[key] = [*(grown.get(key) or ()), *value]


def _take_call(calls: dict[int, dict[str, Any]], part: Mapping[str, Any]) -> None:
    """A tool call comes in parts: its id and name first, its arguments piece by piece."""
    index = part.get("index", len(calls))
    call = calls.setdefault(index, {"id": None, "type": "function", "function": {}})
    call["id"] = part.get("id") or call["id"]
    call["type"] = part.get("type") or call["type"]
    for key, value in (part.get("function") or {}).items():
        call["function"][key] = call["function"].get(key, "") + (value or "")
