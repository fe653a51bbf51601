"""Calls of functions, found in a model's text.

Models write a call as JSON, Llama 3 as `{"name": ..., "parameters": {...}}`, Qwen and others as
`{"name": ..., "arguments": {...}}` between `<tool_call>` tags, which may come after other text.
What begins so is held back until the text has ended; it is calls only if all of it is, and of
functions that the request names.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from uuid import uuid4

from llm_offline.api.body import finite, no_number
from llm_offline.engine.interface import Generation, TextDelta, TokenLogprob, ToolCall
from llm_offline.engine.text.calling import OPENS

_MARKS = (OPENS, "<|python_tag|>")
_BETWEEN = re.compile(r"(?:\s|;|,|\[|\]|</?tool_call>|<\|python_tag\|>)*")

# Where a scanner of JSON has something to do, outside of strings and in one.
_OUTSIDE, _IN_STRING = re.compile(r'["{}]'), re.compile(r'["\\]')
_SURROGATE = re.compile("[\ud800-\udfff]")


class WithCalls:
    """A `Generation` whose text is looked at for calls."""

    def __init__(
        self,
        generation: Generation,
        names: Collection[str],
        *,
        several: bool = True,
        check: Callable[[str], bool] | None = None,
    ) -> None:
        """The calls of `generation`.

        Args:
            generation: The text.
            names: Of the functions that may be called.
            several: Whether more than one call may be made; else the text ends with the first one.
            check: Of a text that looks like calls, whether it is what was asked for.
        """
        self._generation = generation
        self._names = names
        # A text that is checked has a grammar, which ends it.
        self._ends_early = not several and check is None
        self._check = check
        self._held = ""
        self._object = _Object()  # the first one of what is held
        self._logprobs: list[TokenLogprob] = []
        self._has_begun = False  # with words: calls come after a mark only
        self._is_over = False

    @property
    def prompt_tokens(self) -> int:
        """See `interface.Generation`."""
        return self._generation.prompt_tokens

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        if self._is_over:
            raise StopAsyncIteration
        async for delta in self._generation:
            self._held += delta.text
            self._logprobs.extend(delta.logprobs)
            said = self._words()
            if self._ends_early and self._object.closes(self._held) and (call := self._first()):
                # What comes after it is not wanted, and must not be waited for.
                self._is_over = True
                await self._generation.aclose(is_whole=True)
                return self._called(delta, said, call)
            if delta.finish_reason is not None:
                calls = self._calls()
                return self._called(delta, said, calls) if calls else self._said(delta, said, True)
            if said:
                return self._said(delta, said)
        raise StopAsyncIteration

    async def aclose(self, *, is_whole: bool = False) -> None:
        """See `interface.Generation`."""
        await self._generation.aclose(is_whole=is_whole)

    def _words(self) -> str:
        """What of the held text is no part of a call whatever comes next; it is held no more."""
        if not self._has_begun and _may_be_call(self._held):
            return ""
        self._has_begun = True
        at = self._held.find(OPENS)
        if at < 0:
            # The mark may have come in part.
            at = len(self._held) - _beginning(self._held, OPENS)
        said, self._held = self._held[:at], self._held[at:]
        if said:
            self._object = _Object()
        return said

    def _first(self) -> tuple[ToolCall, ...]:
        if self._has_begun and not self._held.startswith(OPENS):
            return ()
        return calls_in(self._held, self._names, first=True)

    def _calls(self) -> tuple[ToolCall, ...]:
        if self._has_begun and not self._held.startswith(OPENS):
            return ()
        calls = calls_in(self._held, self._names)
        if calls and self._check is not None and not self._check(self._held):
            return ()
        return calls

    def _called(self, delta: TextDelta, said: str, calls: tuple[ToolCall, ...]) -> TextDelta:
        logprobs, self._logprobs = tuple(self._logprobs), []
        return replace(
            delta, text=said, logprobs=logprobs, tool_calls=calls, finish_reason="tool_calls"
        )

    def _said(self, delta: TextDelta, said: str, all_of_it: bool = False) -> TextDelta:
        if all_of_it:
            said, self._held = said + self._held, ""
        logprobs, self._logprobs = tuple(self._logprobs), []
        return replace(delta, text=said, logprobs=logprobs)


class _Object:
    """The first object in a growing text of JSON, looked at once.

    To read it anew with each brace would take a time that grows with the square of a long text's.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._depth = 0
        self._is_in_string = False
        self._is_over = False

    def closes(self, text: str) -> bool:
        """Whether it has its end in what `text` has now and had not at the last call."""
        at = self._seen
        while not self._is_over:
            found = (_IN_STRING if self._is_in_string else _OUTSIDE).search(text, at)
            if found is None:
                # What an escape takes with it may not be there yet.
                self._seen = max(at, len(text))
                return False
            mark, at = found[0], found.end()
            if mark == "\\":
                at += 1
            elif mark == '"':
                self._is_in_string = not self._is_in_string
            else:
                self._depth += 1 if mark == "{" else -1
                self._is_over = self._depth <= 0
                if self._is_over:
                    return True
        return False


def _may_be_call(text: str) -> bool:
    beginning = text.lstrip()
    return (
        not beginning
        or beginning[0] in "{["
        or any(beginning.startswith(mark) or mark.startswith(beginning) for mark in _MARKS)
    )


def _beginning(text: str, mark: str) -> int:
    """How many of the last characters of `text` are the first ones of `mark`."""
    longest = min(len(text), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)


def calls_in(text: str, names: Collection[str], *, first: bool = False) -> tuple[ToolCall, ...]:
    """The calls that `text` consists of; none if it has anything else in it.

    `first`: the first call alone, as soon as it is whole, whatever comes after it.
    """
    found = []
    reader = json.JSONDecoder(parse_constant=no_number, parse_float=finite)
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
        if first:
            break
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
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    try:
        written = json.dumps(arguments, ensure_ascii=False)
    except RecursionError:
        return None
    # Half of a surrogate pair is no character: it can be sent to nobody, and most parsers of JSON
    # refuse it when it is escaped.
    whole = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", written)
    return ToolCall(f"call_{uuid4().hex[:24]}", name, whole)
