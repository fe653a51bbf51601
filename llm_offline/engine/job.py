"""One admitted request, as the event loop sees it and as the engine's thread tells of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from enum import Enum, auto
from typing import Literal

from llm_offline.engine.interface import FinishReason, GenerationRequest, TextDelta
from llm_offline.errors import LLMOfflineError


class Mark(Enum):
    """What the thread tells of a job besides its text."""

    STARTED = auto()
    LEFT = auto()


News = TextDelta | LLMOfflineError | Mark
"""What the thread tells of a job."""


class Job:
    """One admitted request; an `interface.Generation`.

    Everything but `given_up` belongs to the event loop; the thread has an `Outbox`.
    """

    def __init__(
        self,
        request: GenerationRequest,
        limit: int,
        ended: Callable[[Job, str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.request = request
        self.limit = limit
        self.created = time.monotonic()
        self.given_up = threading.Event()
        self.state: Literal["waiting", "running", "done"] = "waiting"
        self.started: float | None = None
        self.produced = 0
        self.loop = loop
        self._how: FinishReason | Literal["cancelled", "error"] = "cancelled"
        self._ended = ended
        self._events: asyncio.Queue[TextDelta | LLMOfflineError] = asyncio.Queue()
        self._exhausted = False

    @property
    def prompt_tokens(self) -> int:
        """See `interface.Generation`."""
        return len(self.request.prompt)

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        if self._exhausted:
            raise StopAsyncIteration
        event = await self._events.get()
        if isinstance(event, LLMOfflineError):
            self._exhausted = True
            raise event
        self._exhausted = event.finish_reason is not None
        return event

    async def aclose(self, *, is_whole: bool = False) -> None:
        """See `interface.Generation`."""
        if is_whole:
            self._counts_as("stop")
        self._give_up()

    def fail(self, error: LLMOfflineError) -> None:
        """End it with `error`, wherever it is."""
        self._give_up()
        self._events.put_nowait(error)

    def take(self, news: News) -> None:
        """What an `Outbox` delivers."""
        if self.state == "done":
            return
        if news is Mark.STARTED:
            self.state, self.started = "running", time.monotonic()
        elif news is Mark.LEFT:
            self._leave()
        elif isinstance(news, TextDelta):
            self.produced = news.completion_tokens
            self._counts_as(news.finish_reason)
            self._events.put_nowait(news)
        elif isinstance(news, LLMOfflineError):
            self._counts_as("error")
            self._events.put_nowait(news)

    def _counts_as(self, how: FinishReason | Literal["error"] | None) -> None:
        """How it ended, as far as its client was told first."""
        if self._how == "cancelled" and how is not None:
            self._how = how

    def _give_up(self) -> None:
        self.given_up.set()
        # In the queue its place is free at once; in the thread, once that has left it.
        if self.state == "waiting":
            self._leave()

    def _leave(self) -> None:
        self.state = "done"
        ended, self._ended = self._ended, _nothing
        # A client that reads slowly must not keep a model in memory that was unloaded.
        ended(self, self._how)


def _nothing(job: Job, how: str) -> None: ...


class Outbox:
    """The thread's news for its jobs, kept until they are delivered together.

    Waking an event loop costs more than most of its news: it is woken once for a step's, and not
    for each text.
    """

    def __init__(self) -> None:
        self._kept: dict[asyncio.AbstractEventLoop, list[tuple[Job, News]]] = {}

    def post(self, job: Job, news: News) -> None:
        """Keep news for a job; it gets them in the order in which they were posted."""
        self._kept.setdefault(job.loop, []).append((job, news))

    def deliver(self) -> None:
        """Pass all on to the event loops that still run."""
        kept, self._kept = self._kept, {}
        for loop, news in kept.items():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_hand_out, news)


def _hand_out(news: list[tuple[Job, News]]) -> None:
    for job, one in news:
        job.take(one)
