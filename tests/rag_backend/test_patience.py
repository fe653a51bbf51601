"""What asking again leaves in the log; when it is done is tested in llm/test_retrying.py."""

from __future__ import annotations

import logging

import pytest

from rag_backend.errors import UpstreamError, UpstreamUnavailable
from rag_backend.patience import Patience
from rag_backend.telling import Telling, severity


def away(detail: str = "check it") -> UpstreamUnavailable:
    return UpstreamUnavailable(f"The embedding server at http://a/v1 cannot be reached: {detail}.")


class Server:
    """Fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    async def ask(self) -> str:
        if self.failures:
            self.failures -= 1
            raise away()
        return "an answer"


def told(caplog: pytest.LogCaptureFixture) -> int:
    return len([record for record in caplog.records if record.levelno >= logging.WARNING])


async def test_a_server_that_stays_away_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    patience = Patience(attempts=3, total=60, loading=60, first_wait=0)
    server = Server(9)
    for _ in range(3):  # as every five seconds, while it is away
        with pytest.raises(UpstreamUnavailable):
            await patience.ask(server.ask)
    assert told(caplog) == 1
    assert await patience.ask(server.ask) == "an answer"
    server.failures = 1
    assert await patience.ask(server.ask) == "an answer"
    assert told(caplog) == 2
    server.failures = 1
    assert await patience.ask(server.ask) == "an answer"
    assert told(caplog) == 3  # it had answered in between, though at the second attempt


def test_a_cause_is_told_until_it_is_another_one_or_over() -> None:
    telling = Telling()
    levels = [telling.level(away(detail)) for detail in ("check it", 'it said "no"')]
    assert levels == [logging.WARNING, logging.DEBUG]
    assert telling.level(UpstreamError("The server failed (500).")) == logging.WARNING
    assert telling.level(away()) == logging.WARNING
    telling.over()
    assert telling.level(away()) == logging.WARNING


def test_what_was_told_is_not_told_by_whoever_makes_up_for_it() -> None:
    error = away()
    assert severity(error) == logging.WARNING
    Telling().level(error)
    assert severity(error) == logging.DEBUG
    assert severity(TimeoutError()) == logging.WARNING
