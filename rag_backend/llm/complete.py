"""A stream folded into one `chat.completion`, once, for every provider."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from rag_backend.errors import UpstreamBroken
from rag_backend.llm.provider import ChatRequest, Chunk, LLMProvider

_HEAD = ("id", "created", "model", "provider", "system_fingerprint", "service_tier")


async def complete(provider: LLMProvider, request: ChatRequest) -> dict[str, Any]:
    """The whole answer as a `chat.completion` object; `usage` is None where none was sent.

    Raises:
        UpstreamError: what the stream raises; UpstreamBroken too when it ends unfinished.
    """
    folded: dict[str, Any] = {"object": "chat.completion"}
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    calls: dict[int, dict[str, Any]] = {}
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    async with aclosing(provider.stream(request)) as chunks:
        async for chunk in chunks:
            _take_head(folded, chunk)
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices") or ():
                _take_delta(message, calls, choice.get("delta") or {})
                finish_reason = choice.get("finish_reason") or finish_reason
    if finish_reason is None:
        raise UpstreamBroken(f"Provider {provider.name!r} ended its answer in the middle.")
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
        message["content"] = message["content"] or None
    elif message["content"] is None:
        message["content"] = ""
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return folded | {"choices": [choice], "usage": usage}


def _take_head(folded: dict[str, Any], chunk: Chunk) -> None:
    for key in _HEAD:
        if chunk.get(key) is not None:
            folded.setdefault(key, chunk[key])


def _take_delta(
    message: dict[str, Any], calls: dict[int, dict[str, Any]], delta: dict[str, Any]
) -> None:
    for key, value in delta.items():
        if key == "tool_calls":
            for part in value or ():
                _take_call(calls, part)
        elif key == "role" or value is None:
            continue
        elif isinstance(value, str):  # content, refusal, and what thinking models add
            message[key] = (message.get(key) or "") + value
        elif isinstance(value, list):  # annotations
            message[key] = [*(message.get(key) or ()), *value]


def _take_call(calls: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    """A tool call comes in parts: its id and name first, its arguments piece by piece."""
    index = part.get("index", len(calls))
    call = calls.setdefault(index, {"id": None, "type": "function", "function": {}})
    call["id"] = part.get("id") or call["id"]
    call["type"] = part.get("type") or call["type"]
    for key, value in (part.get("function") or {}).items():
        call["function"][key] = call["function"].get(key, "") + (value or "")
