"""How busy a host is, and how quick."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from rag_backend.errors import UpstreamError
from rag_backend.llm.provider import ChatRequest, Chunk, LLMProvider
from rag_backend.llm.streams import has_output

WINDOW = 100
"""Answers that the moving quantiles look back on."""


class Gauge:
    """The numbers of one host.

    Attributes:
        in_flight: Requests that are being answered now.
        answers, failures: Requests that ended so since the start; neither has those that a client
            gave up.
        last_answer: When the last whole answer ended, by `time.monotonic`.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.answers = 0
        self.failures = 0
        self.last_answer: float | None = None
        self._first_tokens: deque[float] = deque(maxlen=WINDOW)

    def saw_first_token(self, seconds: float) -> None:
        """Take one more measurement into the quantiles."""
        self._first_tokens.append(seconds)

    @property
    def first_tokens(self) -> list[float]:
        """Seconds to the first token of the last answers, in order of time."""
        return list(self._first_tokens)


class Gauged:
    """Counts what passes through."""

    def __init__(
        self, provider: LLMProvider, gauge: Gauge, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._provider = provider
        self._gauge = gauge
        self._clock = clock

    @property
    def name(self) -> str:
        """The wrapped provider's name."""
        return self._provider.name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider."""
        gauge, began, begun = self._gauge, self._clock(), False
        gauge.in_flight += 1
        try:
            async with aclosing(self._provider.stream(request)) as chunks:
                async for chunk in chunks:
                    if not begun and has_output(chunk):
                        begun = True
                        gauge.saw_first_token(self._clock() - began)
                    yield chunk
            gauge.answers += 1
            gauge.last_answer = self._clock()
        except UpstreamError:
            gauge.failures += 1
            raise
        finally:
            gauge.in_flight -= 1


def quantile(values: list[float], share: float) -> float | None:
    """The value that `share` of them do not exceed (nearest rank); None where there are none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
