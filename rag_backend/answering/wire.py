"""One shape for every answer, whoever gave it: chunks out, and chunks folded into a completion."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rag_backend.answering.citing import openai_annotations
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
    """Chunks of a ChunkWriter as one `chat.completion`; raises what the chunks raise."""
    folded = Folded()
    async with aclosing(chunks):
        async for chunk in chunks:
            folded.add(chunk)
    return folded.completion()
