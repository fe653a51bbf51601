"""An engine that produces one text after the other, in a thread of its own.

All bookkeeping (waiting, running, counters) happens on the event loop; the thread only steps
the model and posts what it has. A request that is given up is skipped in the queue, or left at
the next step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from enum import Enum, auto
from typing import Literal, Protocol

from llm_offline.engine.detokenizing import Decode, Detokenizer
from llm_offline.engine.interface import EngineStatus, GenerationRequest, Sampling, TextDelta
from llm_offline.engine.stopping import StopStrings
from llm_offline.errors import (
    ContextExceeded,
    GenerationFailed,
    LLMOfflineError,
    QueueFull,
    ShuttingDown,
)

log = logging.getLogger(__name__)


class Decoding(Protocol):
    """One text in the making."""

    def advance(self) -> int | None:
        """One step: the next token, or None while the prompt is still being read."""
        ...


class Model(Protocol):
    """What the engine steps; `causal_lm.CausalLM` is one."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text."""
        ...

    def start(self, prompt: Sequence[int], sampling: Sampling) -> Decoding:
        """Prepare to continue `prompt`."""
        ...


class OneAtATime:
    """First come, first served; at most `max_queue` requests wait."""

    def __init__(self, model: Model, decode: Decode, *, context: int, max_queue: int) -> None:
        """Starts the thread. `context`: tokens of prompt and answer together."""
        self._model = model
        self._decode = decode
        self._context = context
        self._max_queue = max_queue
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._open: set[_Job] = set()
        self._finished: Counter[str] = Counter(stop=0, length=0, cancelled=0, error=0)
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._seconds_each = 1.0
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def generate(self, request: GenerationRequest) -> _Job:
        """See `interface.Engine.generate`."""
        if self._stopped:
            raise ShuttingDown("the server is shutting down")
        room = self._context - len(request.prompt)
        if room < 1:
            raise ContextExceeded(len(request.prompt), self._context)
        ahead = len(self._open)
        # One that finds the engine idle does not wait.
        if ahead > self._max_queue:
            raise QueueFull(
                f"{ahead} requests are being answered or wait, and no more may "
                f"(--max-queue {self._max_queue}): try again later",
                retry_after=min(60, self._seconds_each),
            )
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        job = _Job(request, limit, self._ended, asyncio.get_running_loop())
        self._open.add(job)
        self._prompt_tokens += len(request.prompt)
        self._jobs.put(job)
        return job

    def status(self) -> EngineStatus:
        """See `interface.Engine.status`."""
        return EngineStatus(
            waiting=self._count("waiting"),
            running=self._count("running"),
            queue_limit=self._max_queue,
            finished=dict(self._finished),
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens + sum(job.produced for job in self._open),
        )

    def stop(self) -> None:
        """See `interface.Engine.stop`."""
        self._stopped = True
        for job in list(self._open):
            job.fail(ShuttingDown("the server is shutting down"))
        self._jobs.put(None)

    def join(self, seconds: float) -> bool:
        """See `interface.Engine.join`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _count(self, state: str) -> int:
        return sum(job.state == state for job in self._open)

    def _ended(self, job: _Job, how: str) -> None:
        self._open.discard(job)
        self._finished[how] += 1
        self._generation_tokens += job.produced
        if job.started is not None:
            self._seconds_each += 0.2 * (time.monotonic() - job.started - self._seconds_each)

    def _work(self) -> None:
        """The thread: nothing that one request does may end it."""
        while (job := self._jobs.get()) is not None:
            if job.given_up.is_set():
                job.post(_Mark.LEFT)
                continue
            job.post(_Mark.STARTED)
            try:
                self._run(job)
            except LLMOfflineError as error:
                log.warning("a request failed: %s", error)
                # Its traceback would keep the KV cache alive, which is what ran out of memory.
                error.__cause__ = error.__context__ = None
                job.post(error.with_traceback(None))
            except Exception:
                log.exception("a request failed")
                job.post(
                    GenerationFailed("the model failed on this request; the server's log says why")
                )
            finally:
                job.post(_Mark.LEFT)

    def _run(self, job: _Job) -> None:
        """Step the model until the text ends or nobody wants it any more."""
        decoding = self._model.start(job.request.prompt, job.request.sampling)
        detokenizer = Detokenizer(self._decode, job.request.prompt)
        stops = StopStrings(job.request.stop)
        produced = 0
        while not job.given_up.is_set():
            token = decoding.advance()
            if token is None:
                continue
            produced += 1
            ended = token in self._model.stop_ids
            text = "" if ended else stops.push(detokenizer.push(token))
            if ended or produced >= job.limit:
                text += stops.push(detokenizer.flush()) + stops.flush()
            if ended or stops.hit:
                job.post(TextDelta(text, produced, "stop"))
                return
            if produced >= job.limit:
                job.post(TextDelta(text, produced, "length"))
                return
            job.post(TextDelta(text, produced))


class _Mark(Enum):
    """What the thread tells of a job besides its text."""

    STARTED = auto()
    LEFT = auto()


class _Job:
    """One admitted request; an `interface.Generation`.

    Everything but `post` and `given_up` belongs to the event loop.
    """

    def __init__(
        self,
        request: GenerationRequest,
        limit: int,
        ended: Callable[[_Job, str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.request = request
        self.limit = limit
        self.given_up = threading.Event()
        self.state: Literal["waiting", "running", "done"] = "waiting"
        self.started: float | None = None
        self.produced = 0
        self._how = "cancelled"
        self._ended = ended
        self._loop = loop
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

    async def aclose(self) -> None:
        """See `interface.Generation`."""
        self._give_up()

    def fail(self, error: LLMOfflineError) -> None:
        """End it with `error`, wherever it is."""
        self._give_up()
        self._events.put_nowait(error)

    def post(self, news: TextDelta | LLMOfflineError | _Mark) -> None:
        """From the thread: pass news to the event loop, if that still runs."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._take, news)

    def _take(self, news: TextDelta | LLMOfflineError | _Mark) -> None:
        if self.state == "done":
            return
        if news is _Mark.STARTED:
            self.state, self.started = "running", time.monotonic()
        elif news is _Mark.LEFT:
            self._leave()
        elif isinstance(news, TextDelta):
            self.produced = news.completion_tokens
            self._how = news.finish_reason or self._how
            self._events.put_nowait(news)
        elif isinstance(news, LLMOfflineError):
            self._how = "error"
            self._events.put_nowait(news)

    def _give_up(self) -> None:
        self.given_up.set()
        # In the queue its place is free at once; in the thread, once that has left it.
        if self.state == "waiting":
            self._leave()

    def _leave(self) -> None:
        self.state = "done"
        self._ended(self, self._how)
