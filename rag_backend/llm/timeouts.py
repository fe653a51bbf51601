"""Time limits on a stream: first token, between tokens, total.

The fourth, on connecting, is the client's own. Each error names the setting that it comes from.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from rag_backend.errors import UpstreamTimeout
from rag_backend.llm.provider import ChatRequest, Chunk, LLMProvider
from rag_backend.llm.streams import has_output


class TokenTimeouts:
    """Limits the wait for the first output and then for each next chunk, in seconds.

    Role-only deltas and keep-alive comments are no output: an upstream that sends nothing else
    runs into the first limit.
    """

    def __init__(self, provider: LLMProvider, *, first_token: float, idle: float) -> None:
        self._provider = provider
        self._first_token = first_token
        self._idle = idle

    @property
    def name(self) -> str:
        """The wrapped provider's name."""
        return self._provider.name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider; raises UpstreamTimeout too."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + self._first_token
        begun = False
        async with aclosing(self._provider.stream(request)) as chunks, _Alarm() as alarm:
            while True:
                try:
                    chunk = await alarm.next(chunks, deadline)
                except TimeoutError:
                    raise self._failure(begun) from None
                if chunk is None:
                    return
                begun = begun or has_output(chunk)
                yield chunk
                if begun:
                    # From now, not from the chunk's arrival: a slow reader is no slow upstream.
                    deadline = clock.time() + self._idle

    def _failure(self, begun: bool) -> UpstreamTimeout:
        if begun:
            return UpstreamTimeout(
                f"Provider {self.name!r} stopped in the middle of its answer: nothing came for "
                f"{self._idle:g} s (LLM_IDLE_TIMEOUT)."
            )
        return UpstreamTimeout(
            f"Provider {self.name!r} sent no first token within {self._first_token:g} s "
            "(LLM_FIRST_TOKEN_TIMEOUT): it is overloaded or too slow for the prompt."
        )


class TotalTimeout:
    """Limits a whole answer, whatever the wrapped provider does in it, in seconds."""

    def __init__(self, provider: LLMProvider, seconds: float) -> None:
        self._provider = provider
        self._seconds = seconds

    @property
    def name(self) -> str:
        """The wrapped provider's name."""
        return self._provider.name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider; raises UpstreamTimeout too."""
        deadline = asyncio.get_running_loop().time() + self._seconds
        async with aclosing(self._provider.stream(request)) as chunks, _Alarm() as alarm:
            while True:
                try:
                    chunk = await alarm.next(chunks, deadline)
                except TimeoutError:
                    raise UpstreamTimeout(
                        f"Provider {self.name!r} did not finish its answer within "
                        f"{self._seconds:g} s (LLM_TOTAL_TIMEOUT)."
                    ) from None
                if chunk is None:
                    return
                yield chunk


class _Alarm:
    """A limit on each wait of a stream, by one timer for all of them.

    `asyncio.timeout` a chunk would set and cancel a timer each time, which costs more than all
    that is done with the chunk. Here a timer that goes off too early is set again.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._deadline = math.inf
        self._waiting: asyncio.Task[Any] | None = None
        self._rang = False

    async def __aenter__(self) -> _Alarm:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def next(self, chunks: AsyncGenerator[Chunk, None], deadline: float) -> Chunk | None:
        """The next chunk, None at the end; raises TimeoutError at the deadline (loop time)."""
        self._waiting = task = asyncio.current_task()
        self._deadline = deadline
        if self._timer is None or deadline < self._due:
            self._set()
        cancelling = task.cancelling() if task else 0
        try:
            return await anext(chunks, None)
        except asyncio.CancelledError:
            # Ours, unless somebody else cancelled the task too: as in asyncio.timeout.
            if self._rang and task is not None and task.uncancel() <= cancelling:
                raise TimeoutError from None
            raise
        finally:
            self._waiting = None

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._deadline
        self._timer = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._waiting is None:
            return  # the next wait sets it
        if self._loop.time() < self._deadline:
            self._set()
        else:
            self._rang = True
            self._waiting.cancel()
