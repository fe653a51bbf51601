"""A host that keeps failing is left alone for a while, and then tried with one request.

    closed     after `threshold` failures in a row  →  open
    open       interval over, or a sign of life     →  half-open
    half-open  its one request is answered          →  closed;  it fails  →  open

What a host is blamed for is written on the errors (`UpstreamError.host_failed`): what goes wrong
on its side. A refusal (4xx), a full queue (429), a model that is still loading and a client that
hung up say nothing against it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Literal

from rag_backend.errors import (
    UpstreamError,
    UpstreamMisconfigured,
    UpstreamRefused,
    UpstreamUnavailable,
)
from rag_backend.llm.provider import ChatRequest, Chunk, LLMProvider
from rag_backend.llm.streams import has_output
from rag_backend.telling import Telling
from rag_backend.upstream import RESTING

State = Literal["closed", "open", "half-open"]

log = logging.getLogger(__name__)


class Circuit:
    """What is known of a host's health. Seconds by `clock`; no task and no timer of its own.

    Attributes:
        opened: Called whenever it opens, for whoever looks after the host from then on.
        last_error: The last thing that went wrong with the host or its settings; None after a
            whole answer.
    """

    def __init__(
        self, threshold: int, interval: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`threshold`: failures in a row that open it, 0 for never; `interval`: how long for."""
        self.opened: Callable[[], None] = lambda: None
        self.last_error: UpstreamError | None = None
        self._threshold = threshold
        self._interval = interval
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._troubled_until = -math.inf
        self._trial: object | None = None
        self._telling = Telling()

    @property
    def state(self) -> State:
        """Closed: everybody may pass; open: nobody; half-open: one."""
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half-open"

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._failures

    @property
    def wait(self) -> float:
        """Seconds for which it stays open, 0 when it is not."""
        return max(0.0, (self._open_until or -math.inf) - self._clock())

    @property
    def rank(self) -> int:
        """In which order hosts are asked, the lowest first.

        A half-open one comes first, or a host that came back would never be found out while
        others do; then those that are sound, those that were in trouble within the last interval,
        and those that let nobody pass.
        """
        state = self.state
        if state == "closed":
            return 1 if self._clock() >= self._troubled_until else 2
        return 0 if state == "half-open" and self._trial is None else 3

    def enter(self) -> object | None:
        """Let a request pass; the trial's gets a token, which it gives to the other methods.

        Raises:
            UpstreamUnavailable: it does not pass, with the code RESTING.
        """
        state = self.state
        if state == "closed":
            return None
        if state == "open" or self._trial is not None:
            raise self._resting()
        self._trial = object()
        return self._trial

    def leave(self, token: object | None) -> None:
        """The request is over, however it ended: the next one may be the trial."""
        if token is not None and token is self._trial:
            self._trial = None

    def answered(self) -> None:
        """The host said something: it is back, and the next failure opens it again."""
        if self._open_until is not None:
            self._close()
            self._failures = max(0, self._threshold - 1)

    def succeeded(self) -> None:
        """A whole answer: nothing speaks against the host any more."""
        self._close()
        self._failures = 0
        self._troubled_until = -math.inf
        self.last_error = None
        self._telling.over()

    def failed(self, error: UpstreamError, token: object | None) -> None:
        """A request ended with an error, of whatever kind."""
        if not isinstance(error, UpstreamRefused) or isinstance(error, UpstreamMisconfigured):
            self._troubled_until = self._clock() + self._interval
            log.log(self._telling.level(error), "%s", error)
            self.last_error = error
        if error.host_failed:
            self._failures += 1
            if token is not None or (self.state == "closed" and self._is_enough()):
                self._open()
        elif token is not None:
            self.answered()

    def try_now(self) -> None:
        """Become half-open before the interval is over: the host has answered a look."""
        if self.state == "open":
            self._open_until = self._clock()

    def hold(self) -> None:
        """Stay open for another interval: the host did not answer a look."""
        if self._open_until is not None and self._trial is None:
            self._open_until = self._clock() + self._interval

    def _is_enough(self) -> bool:
        return 0 < self._threshold <= self._failures

    def _open(self) -> None:
        self._open_until = self._clock() + self._interval
        log.debug("left alone after %d failures: %s", self._failures, self.last_error)
        self.opened()

    def _close(self) -> None:
        if self._open_until is not None:
            log.warning("answers again; the last failure was: %s", self.last_error)
        self._open_until = None

    def _resting(self) -> UpstreamUnavailable:
        wait = math.ceil(self.wait)
        until = f"for another {wait} s" if wait else "while one request tries it"
        resting = UpstreamUnavailable(
            f"{self.last_error} After {self._failures} failures in a row nobody is sent there "
            f"{until} (LLM_BREAKER_THRESHOLD).",
            code=RESTING,
            retry_after=max(1, wait),
        )
        resting.told = True
        return resting


class Breaker:
    """Asks a host as long as its circuit lets requests pass."""

    def __init__(self, provider: LLMProvider, circuit: Circuit) -> None:
        self._provider = provider
        self._circuit = circuit

    @property
    def name(self) -> str:
        """The wrapped provider's name."""
        return self._provider.name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider; raises UpstreamUnavailable with the code RESTING too."""
        circuit, token = self._circuit, self._circuit.enter()
        answered = False
        try:
            async with aclosing(self._provider.stream(request)) as chunks:
                async for chunk in chunks:
                    if not answered and has_output(chunk):
                        answered = True
                        circuit.answered()
                    yield chunk
            circuit.succeeded()
        except UpstreamError as error:
            circuit.failed(error, token)
            raise
        finally:
            circuit.leave(token)
