"""One shape for every answer, whoever gave it: chunks out, and chunks folded into a completion."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from rag_backend.answering.citing import openai_annotations
from rag_backend.errors import UpstreamBroken
from rag_backend.llm.provider import Chunk


class ChunkWriter:
    """Builds the `chat.completion.chunk` objects of one answer."""

    def __init__(self) -> None:
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self.model = ""
        self.provider = ""

    def delta(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> Chunk:
        """A chunk with one choice."""
        choice = {
            "index": 0,
            "delta": dict(delta),
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return self._chunk([choice])

    def citations(self, text: str, citations: Sequence[Mapping[str, Any]]) -> Chunk:
        """The last content chunk: remaining text, annotations, and our own `citations`."""
        delta = {"content": text, "annotations": openai_annotations(citations)}
        return self.delta(delta) | {"citations": list(citations)}

    def usage(self, usage: Mapping[str, int]) -> Chunk:
        """The last chunk: no choices, the token counts."""
        return self._chunk([]) | {"usage": dict(usage)}

    def _chunk(self, choices: list[dict[str, Any]]) -> Chunk:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self.model,
            "provider": self.provider,
            "choices": choices,
        }


def without_empty(delta: Mapping[str, Any]) -> dict[str, Any]:
    """A delta's fields that say something, the role aside: it is sent once, first."""
    return {key: value for key, value in delta.items() if key != "role" and value not in (None, "")}


async def fold(chunks: AsyncGenerator[Chunk, None]) -> dict[str, Any]:
    """The chunks of one answer as one `chat.completion`; raises what the chunks raise."""
    first: Chunk | None = None
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    message["annotations"] = []
    last: Chunk = {}
    async with aclosing(chunks):
        async for chunk in chunks:
            first = first or chunk
            last = last | chunk
            for choice in chunk["choices"]:
                last["finish_reason"] = choice["finish_reason"]
                _merge(message, choice["delta"])
    if first is None:
        raise UpstreamBroken("The model server answered nothing.")
    return {
        "id": last["id"],
        "object": "chat.completion",
        "created": last["created"],
        "model": last["model"],
        "provider": last["provider"],
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": last["finish_reason"],
            }
        ],
        "usage": last["usage"],
        "citations": last.get("citations", []),
    }


def _merge(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add a delta to a message: texts are joined, tool calls put together by their index."""
    for key, value in delta.items():
        if key == "role":
            continue
        if key == "tool_calls":
            for part in value:
                _merge_tool_call(message.setdefault("tool_calls", []), part)
        elif isinstance(value, str):
            message[key] = (message.get(key) or "") + value
        else:
            message[key] = value
    if "tool_calls" in message and not message["content"]:
        message["content"] = None


def _merge_tool_call(calls: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    at = part.get("index", len(calls))
    while len(calls) <= at:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[at]
    call["id"] = part.get("id") or call["id"]
    function = part.get("function") or {}
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""
