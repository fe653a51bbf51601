"""What the endpoints of our own answer; OpenAI's answers are in `shapes`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from llm_offline.tasks.writing import Used


class CachedTokens(BaseModel):
    """Part of `Usage`."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of all calls of the model that the answer took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens

    @classmethod
    def of(cls, used: Used) -> Usage:
        """As OpenAI writes it."""
        return cls(
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            total_tokens=used.prompt_tokens + used.completion_tokens,
            prompt_tokens_details=CachedTokens(cached_tokens=used.cached_tokens),
        )


class Summary(BaseModel):
    """A text in fewer words.

    `pieces` is 1 for a text that the context holds; `incomplete_parts` counts the summaries of
    parts that the model did not bring to their end.
    """

    summary: str
    pieces: int
    incomplete_parts: int
    usage: Usage
    finish_reason: Literal["stop", "length"]
    model: str


class CompressedPassage(BaseModel):
    """What is left of a passage; `spans` are [start, end) in its characters."""

    index: int
    source: Any
    text: str
    spans: list[tuple[int, int]]
    tokens: int


class Compressed(BaseModel):
    """Passages cut down, those of which nothing is left left out; `text` is all of them."""

    text: str
    passages: list[CompressedPassage]
    tokens_before: int
    tokens_after: int
    target_tokens: int | None
    usage: Usage
    finish_reason: Literal["stop"]
    model: str


class Extracted(BaseModel):
    """An object that the schema accepts."""

    parameters: dict[str, Any]
    usage: Usage
    finish_reason: Literal["stop"]
    model: str


class Generated(BaseModel):
    """New text only, without the prompt."""

    text: str
    usage: Usage
    finish_reason: Literal["stop", "length"]
    model: str


class Tokenized(BaseModel):
    """Token ids of a text, or of a conversation in the model's own template."""

    tokens: list[int]
    count: int


class Detokenized(BaseModel):
    """The text of token ids."""

    text: str
    count: int
