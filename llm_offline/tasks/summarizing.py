"""A text in fewer words: in one call, or in parts and then together (map and reduce)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

from llm_offline.engine.interface import Generation, TextDelta
from llm_offline.errors import BadRequest, GenerationFailed
from llm_offline.tasks import prompts
from llm_offline.tasks.pieces import cut
from llm_offline.tasks.writing import ADMITTED, Writer, in_order

WORDS = {"short": 50, "medium": 150, "long": 400}
"""What the named lengths are, in words, for a text that is at least three times as long."""

_TOKENS_A_WORD = 4
"""Vietnamese syllables take up to three tokens in older vocabularies."""
_LEEWAY = 64
_LEAST_ROOM = 32
_MOST_OF_A_PART = 1024
_PARTS = 8
"""A part's summary gets one token in so many of the context: each round leaves about a sixth."""
_MOST_ROUNDS = 6


def words_for(length: str | int, text: str) -> int:
    """Words of a summary; a named length asks no short text to be drawn out."""
    if isinstance(length, int):
        return length
    # Some scripts have no spaces between words.
    there_are = max(len(text.split()), len(text) // 6)
    return max(15, min(WORDS[length], there_are // 3))


@dataclass(frozen=True, slots=True)
class _Round:
    """Prompts to be answered independently of each other; the last round has one."""

    prompts: list[tuple[int, ...]]
    is_last: bool


class _Wishes(TypedDict):
    max_tokens: int
    stop: tuple[str, ...]


class Summarizer:
    """Summarises one text.

    Attributes:
        pieces: Parts in which the text was read; 1 if it fits into the context.
        incomplete: Summaries of parts that the model did not bring to their end.
    """

    def __init__(
        self,
        writer: Writer,
        text: str,
        *,
        words: int,
        max_tokens: int | None = None,
        stop: tuple[str, ...] = (),
    ) -> None:
        """`max_tokens` and `stop` are for the summary, not for those of its parts."""
        self.pieces = 1
        self.incomplete = 0
        self._writer = writer
        self._text = text
        self._words = words
        self._limit = max_tokens or _TOKENS_A_WORD * words + _LEEWAY
        self._stop = stop
        self._part_limit = min(_MOST_OF_A_PART, max(16, writer.context // _PARTS))
        self._vietnamese = prompts.is_vietnamese(text)

    async def deltas(self) -> AsyncGenerator[TextDelta, None]:
        """`ADMITTED`, then the summary as it is written.

        Raises:
            BadRequest: The context is too small for this task.
            GenerationFailed: The parts' summaries do not become shorter, or say nothing.
        """
        now = await self._writer.aside(self._plan, self._text, first=True)
        self.pieces = len(now.prompts)
        generation: Generation | None = self._writer.admit(now.prompts[0], **self._wishes(now))
        yield ADMITTED
        rounds = 0
        while not now.is_last:
            parts = await self._write_all(now, generation)
            generation, before = None, now
            now = await self._writer.aside(self._plan, "\n\n".join(parts), first=False)
            rounds += 1
            if rounds > _MOST_ROUNDS or len(now.prompts) > len(before.prompts):
                raise GenerationFailed("the model's summaries of the parts do not become shorter")
        if generation is None:
            generation = await self._writer.place(now.prompts[0], **self._wishes(now))
        async with aclosing(self._writer.deltas(generation)) as deltas:
            async for delta in deltas:
                yield delta

    def _wishes(self, now: _Round) -> _Wishes:
        if now.is_last:
            return {"max_tokens": self._limit, "stop": self._stop}
        return {"max_tokens": self._part_limit, "stop": ()}

    def _plan(self, text: str, *, first: bool) -> _Round:
        """The whole in one prompt if it fits, else its parts."""
        ask = prompts.summary if first else prompts.joint_summary
        whole = self._writer.encode(ask(text, self._words, vietnamese=self._vietnamese))
        context = self._writer.context
        if len(whole) + min(self._limit, context // 4) <= context:
            return _Round([whole], is_last=True)
        room = context - self._part_limit
        fixed = len(self._part(""))
        if room - fixed < _LEAST_ROOM:
            raise BadRequest(
                f"this server's context of {context} tokens is too small for summaries, whose "
                f"instructions alone take {fixed}: start it with a larger --max-context"
            )
        pieces = cut(text, room, lambda piece: len(self._part(piece)))
        return _Round([self._part(piece) for piece in pieces if piece.strip()], is_last=False)

    def _part(self, piece: str) -> tuple[int, ...]:
        words = max(15, (self._part_limit - _LEEWAY) // _TOKENS_A_WORD)
        return self._writer.encode(prompts.part_summary(piece, words, vietnamese=self._vietnamese))

    async def _write_all(self, now: _Round, first: Generation | None) -> list[str]:
        """The parts' summaries, in order; `first` is the first one's, if it was admitted."""

        async def write(prompt: tuple[int, ...], admitted: Generation | None) -> tuple[str, bool]:
            generation = admitted or await self._writer.place(prompt, **self._wishes(now))
            return await self._writer.whole(generation)

        works = [
            partial(write, prompt, None if number else first)
            for number, prompt in enumerate(now.prompts)
        ]
        parts = []
        async with aclosing(in_order(works)) as results:
            async for text, ended in results:
                self.incomplete += not ended
                parts += [text.strip()] if text.strip() else []
        if not parts:
            raise GenerationFailed("the model wrote nothing about any part of the text")
        return parts
