"""An engine that answers what a function says, and a tokenizer whose tokens can be counted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from llm_offline.engine.interface import EngineStatus, GenerationRequest, Sampling, TextDelta
from llm_offline.errors import ContextExceeded, QueueFull
from llm_offline.tasks.writing import Writer

Answer = Callable[[str], str]
"""What the model says to a prompt; raises what the engine would."""


class FakeText:
    """A token is up to four characters with the white space before them."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [self._id(part) for part in re.findall(r"\s*\S{1,4}|\s+", text)]

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        return [token for one in messages for token in self.encode(f"<>{one['content']}")]

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return "".join(self._texts[token] for token in tokens)

    def token_text(self, token: int) -> str:
        return self._texts[token]

    def first_unknown(self, tokens: Sequence[int]) -> int | None:
        return None

    def _id(self, part: str) -> int:
        if part not in self._ids:
            self._ids[part] = len(self._texts)
            self._texts.append(part)
        return self._ids[part]


class Spoken:
    """A generation that says its words one by one, each when the others have had their turn."""

    def __init__(self, engine: ScriptedEngine, request: GenerationRequest, answer: str) -> None:
        self._engine = engine
        words = re.findall(r"\s*\S+|\s+", answer)
        limit = request.max_tokens or len(words) + 1
        self._words = words[:limit]
        self._finish = "length" if len(words) > limit else "stop"
        self._said = 0
        self.prompt_tokens = len(request.prompt)

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        await asyncio.sleep(0)
        await self._engine.may_go_on.wait()
        if self._said > len(self._words):
            raise StopAsyncIteration
        if self._said == len(self._words):
            self._said += 1
            self._engine.running.discard(self)
            return TextDelta("", len(self._words), self._finish)  # type: ignore[arg-type]
        self._said += 1
        return TextDelta(self._words[self._said - 1], self._said)

    async def aclose(self, *, is_whole: bool = False) -> None:
        self._engine.running.discard(self)


class ScriptedEngine:
    """See `interface.Engine`.

    Attributes:
        prompts: What it was asked, in order.
        running: Generations that are not over.
        most_running: How many there were at once.
        refusals: Answers to the next requests that find the queue full.
        waiting: Requests in its queue of 8.
        may_go_on: Texts come only while it is set.
    """

    def __init__(self, text: FakeText, answer: Answer, context: int) -> None:
        self._text = text
        self._answer = answer
        self._context = context
        self.prompts: list[str] = []
        self.requests: list[GenerationRequest] = []
        self.running: set[Spoken] = set()
        self.most_running = 0
        self.refusals = 0
        self.waiting = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    def generate(self, request: GenerationRequest, places: int = 1) -> Spoken:
        if self.refusals:
            self.refusals -= 1
            raise QueueFull("no place")
        if len(request.prompt) >= self._context:
            raise ContextExceeded(len(request.prompt), self._context)
        assert request.max_tokens is None or request.max_tokens > 0
        prompt = self._text.decode(request.prompt).removeprefix("<>")
        self.prompts.append(prompt)
        self.requests.append(request)
        spoken = Spoken(self, request, self._answer(prompt))
        self.running.add(spoken)
        self.most_running = max(self.most_running, len(self.running))
        return spoken

    def status(self) -> EngineStatus:
        return EngineStatus(self.waiting, len(self.running), 8, {}, 0, 0)

    def stop(self) -> None: ...

    def join(self, seconds: float) -> bool:
        return True


def scripted(answer: Answer, *, context: int = 400) -> tuple[Writer, ScriptedEngine]:
    """A writer, and the engine that it asks; its pauses take no time."""
    text = FakeText()
    engine = ScriptedEngine(text, answer, context)

    async def pause(seconds: float) -> None:
        await asyncio.sleep(0)

    sampling = Sampling(temperature=0.0)
    return Writer(text, engine, context=context, sampling=sampling, pause=pause), engine
