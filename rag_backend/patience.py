"""When an upstream that failed is asked again: one set of rules for models and encoders."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import ParamSpec, TypeVar, cast

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    wait_random_exponential,
)

from rag_backend.errors import UpstreamError, UpstreamMisconfigured, UpstreamRefused
from rag_backend.telling import Telling
from rag_backend.upstream import LOADING, RESTING

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

_HOPELESS = frozenset({"insufficient_quota", "billing_hard_limit_reached", RESTING})
"""Codes of failures that asking again soon does not cure."""


class Patience:
    """How often and how long an upstream is asked.

    Attempts are capped in number and by a deadline; between them it waits a random time up to an
    exponentially growing limit, or as long as `Retry-After` says. A wait that would pass the
    deadline is not begun: the error goes out at once. A model that reports that it is loading is
    asked again every `loading_wait` for the time `loading`, whatever the number of attempts. An
    open breaker is not waited for.
    """

    def __init__(
        self,
        *,
        attempts: int,
        total: float,
        loading: float,
        hosts: int = 1,
        first_wait: float = 0.5,
        longest_wait: float = 8.0,
        loading_wait: float = 1.0,
        retried: Callable[[], None] | None = None,
    ) -> None:
        """All times in seconds.

        `hosts` is how many share the work: the first failures go to the next one at once, and each
        is asked, even where that takes more than `attempts`, or where one does not take our key.
        `retried` is called before each further attempt, waiting for a model that loads aside.
        """
        self._retried = retried
        self._attempts = max(attempts, hosts)
        self._total = total
        self._loading = loading
        self._loading_wait = loading_wait
        self._hosts = hosts
        self._telling = Telling()
        self._backoff = wait_random_exponential(multiplier=first_wait, max=longest_wait)

    async def ask(self, question: Callable[P, Awaitable[T]], *args: P.args, **named: P.kwargs) -> T:
        """What the question answers, asked again where that may help; raises the last error."""
        began = time.monotonic()
        try:
            answer = await question(*args, **named)
        except UpstreamError as error:
            if not self._helps(error, 1):
                raise
            failure: UpstreamError | None = error
        else:
            self._telling.over()
            return answer

        async def again() -> T:
            nonlocal failure
            if failure is not None:
                # The first attempt, as tenacity counts them: its bookkeeping costs more than a
                # question that is answered, as nearly every one is, so it is left to those that
                # are not.
                first, failure = failure, None
                raise first
            return await question(*args, **named)

        answer = await self._asking(time.monotonic() - began)(again)
        self._telling.over()
        return answer

    def _asking(self, before: float) -> AsyncRetrying:
        """One question's retries; `before`: seconds that the first attempt took."""
        return AsyncRetrying(
            retry=self._is_worth_it,
            wait=self._wait,
            stop=partial(self._is_enough, before),
            before_sleep=self._note,
            sleep=asyncio.sleep,
            reraise=True,
        )

    def _is_worth_it(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        return error is not None and self._helps(error, state.attempt_number)

    def _helps(self, error: BaseException, attempts: int) -> bool:
        """Whether to ask again after so many attempts."""
        elsewhere = isinstance(error, UpstreamMisconfigured) and attempts < self._hosts
        return elsewhere or is_passing(error)

    def _wait(self, state: RetryCallState) -> float:
        error = _error(state)
        if state.attempt_number < self._hosts:
            return 0.0
        if error.code == LOADING:
            return self._loading_wait
        backoff = self._backoff(state)
        if error.retry_after is not None:
            # Not earlier than asked, and not all clients at the same moment.
            return error.retry_after + backoff / 10
        return backoff

    def _is_enough(self, before: float, state: RetryCallState) -> bool:
        took = before + (state.seconds_since_start or 0.0)
        if took + state.upcoming_sleep >= self._total:
            return True
        if _error(state).code == LOADING:
            return took + self._loading_wait > self._loading
        return state.attempt_number >= self._attempts

    def _note(self, state: RetryCallState) -> None:
        error, number = _error(state), state.attempt_number
        if error.code == LOADING:
            # One line for a wait that may take a minute.
            log.log(self._telling.level(error), "waiting: %s", error)
            return
        if self._retried is not None:
            self._retried()
        wait = state.upcoming_sleep
        said = "attempt %d of %d failed, next in %.1f s: %s"
        log.log(self._telling.level(error), said, number, self._attempts, wait, error)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    return (
        isinstance(error, UpstreamError)
        and not isinstance(error, UpstreamRefused)
        and error.code not in _HOPELESS
    )


def _error(state: RetryCallState) -> UpstreamError:
    """The attempt's error; `is_passing` lets no other kind come this far."""
    return cast(UpstreamError, state.outcome and state.outcome.exception())
