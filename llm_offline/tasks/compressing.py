"""Passages cut down to the sentences that a question needs, word for word.

The model chooses sentences by their numbers, bound by a grammar, instead of copying them: it writes
few tokens, can invent nothing, and its order says what to give up first where a target is set.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from llm_offline.engine.interface import Generation
from llm_offline.errors import ContextExceeded
from llm_offline.loaded import Grammars
from llm_offline.tasks import prompts
from llm_offline.tasks.pieces import Span, cut, sentences
from llm_offline.tasks.writing import Writer, in_order

LEAST_TARGET = 8
"""Tokens; fewer hold no statement."""

_NUMBER_TOKENS = 8
"""A sentence's number with comma and space, in a vocabulary without numbers."""
_LEAST_ROOM = 64
_LIST_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Passage:
    """What is to be cut down; `source` is whatever the client calls it."""

    text: str
    source: Any = None


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left of a passage.

    Attributes:
        index: Of the passage, from 0.
        source: The passage's.
        text: The sentences kept, in their order, those that do not follow each other on lines of
            their own.
        spans: Where in the passage's text they stand.
        tokens: Of `text`.
    """

    index: int
    source: Any
    text: str
    spans: tuple[Span, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class _Call:
    """One question to the model: which of these sentences of a passage help?"""

    passage: int
    spans: tuple[Span, ...]
    prompt: tuple[int, ...]


class Compressor:
    """Cuts the passages of one request down.

    Attributes:
        tokens_before: Of all passages; known once the work is admitted.
        target: Most tokens to be left, or None.
    """

    def __init__(
        self,
        writer: Writer,
        grammars: Grammars,
        passages: Sequence[Passage],
        question: str,
        *,
        target: int | None = None,
        ratio: float | None = None,
    ) -> None:
        """`ratio`: of `tokens_before`, in place of a `target`; both None: what the model picks."""
        self.tokens_before = 0
        self.target = target
        self._ratio = ratio
        self._writer = writer
        self._grammars = grammars
        self._passages = passages
        self._question = question

    async def kept(self) -> AsyncGenerator[Kept | None, None]:
        """None once the work is admitted; then what is left, in the passages' order.

        Without a target each passage comes as soon as it and those before it are done.

        Raises:
            ContextExceeded: The question leaves no room for sentences.
        """
        calls = await self._writer.aside(self._plan)
        first = None
        if calls:
            first = await self._ask(calls[0], patiently=False)
        yield None
        works = [partial(self._chosen, call, None if n else first) for n, call in enumerate(calls)]
        ranked: dict[int, list[list[Span]]] = {}
        async with aclosing(in_order(works)) as results:
            at = 0
            async for spans in results:
                ranked.setdefault(calls[at].passage, []).append(spans)
                at += 1
                done = at == len(calls) or calls[at].passage != calls[at - 1].passage
                if done and self.target is None:
                    passage = calls[at - 1].passage
                    for one in await self._writer.aside(self._all, {passage: ranked[passage]}):
                        yield one
        if self.target is not None:
            for one in await self._writer.aside(self._best, ranked, self.target):
                yield one

    def _plan(self) -> list[_Call]:
        self.tokens_before = sum(self._writer.count(one.text) for one in self._passages)
        if self._ratio is not None:
            self.target = max(LEAST_TARGET, int(self._ratio * self.tokens_before))
        fixed = len(self._writer.encode(prompts.selection(self._question, [])))
        room = self._writer.context - fixed - _LIST_TOKENS
        if room < _LEAST_ROOM:
            raise ContextExceeded(fixed, self._writer.context, param="question")
        calls: list[_Call] = []
        for index, passage in enumerate(self._passages):
            spans = [
                part
                for start, end in sentences(passage.text)
                for part in self._parts(passage.text[start:end], start, room // 2)
            ]
            calls += self._calls(index, tuple(spans))
        return calls

    def _parts(self, sentence: str, start: int, room: int) -> list[Span]:
        """A sentence, or parts of one that is longer than `room` tokens."""
        found = []
        for part in cut(sentence, room, self._writer.count):
            found.append((start, start + len(part)))
            start += len(part)
        return found

    def _calls(self, index: int, spans: tuple[Span, ...]) -> list[_Call]:
        """As few calls as the context allows."""
        if not spans:
            return []
        text = self._passages[index].text
        said = [text[start:end].strip() for start, end in spans]
        prompt = self._writer.encode(prompts.selection(self._question, said))
        if len(prompt) + _answer_tokens(len(spans)) > self._writer.context and len(spans) > 1:
            half = len(spans) // 2
            return [*self._calls(index, spans[:half]), *self._calls(index, spans[half:])]
        return [_Call(index, spans, prompt)]

    async def _ask(self, call: _Call, *, patiently: bool) -> Generation:
        most = len(call.spans)
        numbers = {"type": "integer", "minimum": 1, "maximum": most}
        schema = {"type": "array", "items": numbers, "maxItems": most}
        grammar = await self._writer.aside(self._grammars.json_schema, schema)
        limit = _answer_tokens(most)
        if patiently:
            return await self._writer.place(call.prompt, max_tokens=limit, grammar=grammar)
        return self._writer.admit(call.prompt, max_tokens=limit, grammar=grammar)

    async def _chosen(self, call: _Call, admitted: Generation | None) -> list[Span]:
        """The sentences that help, the most helpful first."""
        generation = admitted or await self._ask(call, patiently=True)
        text, _ = await self._writer.whole(generation)
        return [call.spans[number - 1] for number in numbers_in(text, len(call.spans))]

    def _all(self, ranked: dict[int, list[list[Span]]]) -> list[Kept]:
        chosen = [
            (index, span) for index, lists in ranked.items() for spans in lists for span in spans
        ]
        return self._join(chosen)

    def _best(self, ranked: dict[int, list[list[Span]]], target: int) -> list[Kept]:
        """The passages in turn give their next best sentence, until `target` is used up."""
        turns = sorted(
            (rank, index, span)
            for index, lists in ranked.items()
            for spans in lists
            for rank, span in enumerate(spans)
        )
        chosen: list[tuple[int, Span]] = []
        left = target
        for _, index, span in turns:
            # One more for the line end before it.
            cost = self._writer.count(self._passages[index].text[slice(*span)]) + 1
            if cost <= left:
                left -= cost
                chosen.append((index, span))
        if turns and not chosen:
            _, index, (start, end) = turns[0]
            text = self._passages[index].text[start:end]
            chosen = [(index, (start, start + len(cut(text, target, self._writer.count)[0])))]
        return self._join(chosen)

    def _join(self, chosen: Sequence[tuple[int, Span]]) -> list[Kept]:
        found = []
        for index in sorted({index for index, _ in chosen}):
            passage = self._passages[index]
            spans = _merged(passage.text, sorted(span for at, span in chosen if at == index))
            text = "\n".join(passage.text[start:end] for start, end in spans)
            found.append(Kept(index, passage.source, text, spans, self._writer.count(text)))
        return found


def _answer_tokens(sentences: int) -> int:
    return _NUMBER_TOKENS * sentences + _LIST_TOKENS


def numbers_in(text: str, most: int) -> list[int]:
    """The numbers from 1 to `most` in a list that may have been broken off, each once."""
    found = [int(number[:9]) for number in re.findall(r"\d+", text)]
    if not text.rstrip().endswith("]"):
        found = found[:-1]  # it may have been the beginning of a longer one
    return [number for number in dict.fromkeys(found) if 1 <= number <= most]


def _merged(text: str, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans between which there is nothing but white space become one."""
    merged: list[Span] = []
    for start, end in spans:
        if merged and not text[merged[-1][1] : start].strip():
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)
