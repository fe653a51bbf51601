"""A library of given passages, and providers that play a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rag_backend.answering.citing import Source
from rag_backend.knowledge.models import Store, StoredChunk
from rag_backend.knowledge.passages import Hit, Passage
from rag_backend.llm.provider import ChatRequest, Chunk, Message
from rag_backend.text import query_terms

STORE = Store("vs-1", "default", 0, 0, {}, 1, 1, False, None, None)

Step = str | Chunk | Exception
"""Text to say, a chunk to send as it is, or an error to raise."""


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def chunk(text: str, number: int = 1, **fields: Any) -> StoredChunk:
    """A chunk of a file of its own."""
    given: dict[str, Any] = {
        "id": f"file-{number}:0",
        "file_id": f"file-{number}",
        "ordinal": 0,
        "filename": f"doc-{number}.md",
        "text": text,
        "start": 0,
        "end": len(text),
        "page": None,
        "heading_path": (),
        "question": None,
        "answer": None,
    }
    return StoredChunk(**given | fields)


def source(text: str, number: int = 1, **fields: Any) -> Source:
    """A passage of one chunk."""
    best = chunk(text, number, **fields)
    return Source(number, Passage(best, text, 0, len(text), best.page, 1.0 / number, 1.0))


@dataclass
class FakeLibrary:
    """What the pipeline asks of a library; `texts` are found by every search, best first.

    `chunks` come after them, as they are.
    """

    texts: Sequence[str] = ()
    relevance: float = 1.0
    chunks: Sequence[StoredChunk] = ()
    rows: Mapping[str, StoredChunk] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)

    async def is_empty(self, _store: Store) -> bool:
        return not (self.texts or self.chunks or self.rows)

    async def curated(self, _store: Store, question: str) -> StoredChunk | None:
        return self.rows.get(question)

    async def search(self, _store: Store, query: str, k: int) -> list[Hit]:
        self.queries.append(query)
        chunks = [chunk(text, number) for number, text in enumerate(self.texts, 1)]
        chunks += self.chunks
        return [Hit(c, 1.0 / n, self.relevance) for n, c in enumerate(chunks, 1)][:k]

    async def term_weights(self, _store: Store, query: str) -> dict[str, float]:
        return dict.fromkeys(query_terms(query), 1.0)


class Scripted:
    """A provider that says its steps to every request and ends with `finish`."""

    def __init__(
        self,
        *steps: Step,
        name: str = "scripted",
        finish: str | None = "stop",
        usage: Mapping[str, int] | None = None,
    ) -> None:
        self._steps = steps
        self._name = name
        self._finish = finish
        self._usage = usage
        self.requests: list[ChatRequest] = []
        self.closed = 0

    @property
    def name(self) -> str:
        return self._name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        head = {"model": "tiny", "provider": self._name}
        try:
            for step in self._steps:
                if isinstance(step, Exception):
                    raise step
                yield head | (said(step) if isinstance(step, str) else step)
            if self._finish is not None:
                yield head | {"choices": [{"index": 0, "delta": {}, "finish_reason": self._finish}]}
            if self._usage is not None:
                yield head | {"choices": [], "usage": dict(self._usage)}
        finally:
            self.closed += 1

    @property
    def prompt(self) -> str:
        """The last request's last message."""
        return str(self.requests[-1].messages[-1]["content"])


class Silent(Scripted):
    """A provider that never answers."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        try:
            await asyncio.Event().wait()
            yield {}
        finally:
            self.closed += 1


def said(text: str) -> Chunk:
    """A chunk with text."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
