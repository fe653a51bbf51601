"""What every wrapper asks of a stream of chunks."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import NamedTuple

from rag_backend.llm.provider import ChatRequest, Chunk, LLMProvider

CHARACTERS_PER_TOKEN = 3.0
"""Conservative for English and Vietnamese alike; used where no server counts for us."""


def estimate_tokens(text: str) -> int:
    """A language model's tokens in a text, rather too many than too few."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def has_output(chunk: Chunk) -> bool:
    """Whether a chunk brings anything of the answer: text, a tool call, reasoning, or its end.

    A delta with the role alone says only that the upstream is there.
    """
    ended = any(c.get("finish_reason") is not None for c in chunk.get("choices") or ())
    return ended or says_something(chunk)


def says_something(chunk: Chunk) -> bool:
    """The same without the end: whether there is a piece of an answer in it."""
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        if any(value for key, value in delta.items() if key != "role"):
            return True
    return False


class Begun(NamedTuple):
    """A stream that has brought its first output.

    `held` are the chunks received so far, the last of them with output; `rest` yields those that
    follow. The receiver closes `rest`.
    """

    held: list[Chunk]
    rest: AsyncGenerator[Chunk, None]


async def begin(provider: LLMProvider, request: ChatRequest) -> Begun:
    """Ask a provider and wait for the first output; until then the caller may change its mind.

    Raises:
        UpstreamError: whatever the provider raises before its first output.
    """
    chunks = provider.stream(request)
    held: list[Chunk] = []
    try:
        async for chunk in chunks:
            held.append(chunk)
            if has_output(chunk):
                break
    except BaseException:
        await chunks.aclose()
        raise
    return Begun(held, chunks)
