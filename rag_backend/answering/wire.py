"""One shape for every answer, whoever gave it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rag_backend.answering.citing import openai_annotations
from rag_backend.llm.provider import Chunk


class ChunkWriter:
    """Builds the `chat.completion.chunk` objects of one answer."""

    def __init__(self, provider: str) -> None:
        """`provider` signs what comes before, or without, a chunk that names its own."""
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self.model = self.provider = provider

    def delta(
        self,
        delta: Mapping[str, Any],
        finish_reason: str | None = None,
        logprobs: Mapping[str, Any] | None = None,
    ) -> Chunk:
        """A chunk with one choice."""
        choice = {
            "index": 0,
            "delta": dict(delta),
            "logprobs": logprobs,
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
    return {k: v for k, v in delta.items() if k != "role" and v not in (None, "", [])}
