"""Functions that a model may call: what a request says of them, and calls found in its text.

Models write a call as JSON, Llama 3 as `{"name": ..., "parameters": {...}}`, Qwen and others as
`{"name": ..., "arguments": {...}}` between `<tool_call>` tags. A text that begins so is held back
until it has ended; it is a call only if all of it is, and of functions that the request names.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from typing import Any, Literal
from uuid import uuid4

from pydantic import ConfigDict, Field

from llm_offline.api.body import Body
from llm_offline.engine.interface import Generation, TextDelta, TokenLogprob, ToolCall

_MARKS = ("<tool_call>", "<|python_tag|>")
_BETWEEN = re.compile(r"(?:\s|;|,|\[|\]|</?tool_call>|<\|python_tag\|>)*")


class Function(Body):
    """A function's name, purpose and parameters (a JSON schema)."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """OpenAI's tool; functions are the only kind."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["function"]
    function: Function

    @property
    def call_schema(self) -> dict[str, Any]:
        """A JSON schema of the calls of this function, as Llama 3 writes them."""
        parameters = self.function.parameters or {"type": "object"}
        return {
            "type": "object",
            "properties": {"name": {"const": self.function.name}, "parameters": parameters},
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }


class _Named(Body):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str


class NamedTool(Body):
    """`tool_choice` of one function."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["function"]
    function: _Named


class WithCalls:
    """A `Generation` whose text is looked at for calls."""

    def __init__(self, generation: Generation, names: Collection[str]) -> None:
        """`names`: of the functions that may be called."""
        self._generation = generation
        self._names = names
        self._held = ""
        self._logprobs: tuple[TokenLogprob, ...] = ()
        self._is_text = False

    @property
    def prompt_tokens(self) -> int:
        """See `interface.Generation`."""
        return self._generation.prompt_tokens

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        async for delta in self._generation:
            self._held += delta.text
            self._logprobs += delta.logprobs
            self._is_text = self._is_text or not _may_be_call(self._held)
            if self._is_text or delta.finish_reason is not None:
                return self._let_go(delta)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """See `interface.Generation`."""
        await self._generation.aclose()

    def _let_go(self, delta: TextDelta) -> TextDelta:
        text, self._held = self._held, ""
        logprobs, self._logprobs = self._logprobs, ()
        calls = () if self._is_text else calls_in(text, self._names)
        if not calls:
            return replace(delta, text=text, logprobs=logprobs)
        return replace(
            delta, text="", logprobs=logprobs, tool_calls=calls, finish_reason="tool_calls"
        )


def _may_be_call(text: str) -> bool:
    beginning = text.lstrip()
    return (
        not beginning
        or beginning[0] in "{["
        or any(beginning.startswith(mark) or mark.startswith(beginning) for mark in _MARKS)
    )


def calls_in(text: str, names: Collection[str]) -> tuple[ToolCall, ...]:
    """The calls that `text` consists of; none if it has anything else in it."""
    found = []
    reader = json.JSONDecoder()
    at = _after_marks(text, 0)
    while at < len(text):
        try:
            value, at = reader.raw_decode(text, at)
        except (ValueError, RecursionError):
            return ()
        call = _call(value, names)
        if call is None:
            return ()
        found.append(call)
        at = _after_marks(text, at)
    return tuple(found)


def _after_marks(text: str, at: int) -> int:
    between = _BETWEEN.match(text, at)
    return between.end() if between else at


def _call(value: object, names: Collection[str]) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    arguments = value.get("parameters", value.get("arguments"))
    if name not in names or not isinstance(arguments, dict):
        return None
    written = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(f"call_{uuid4().hex[:24]}", str(name), written)
