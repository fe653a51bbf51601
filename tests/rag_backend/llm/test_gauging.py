"""What is counted, and how the quantiles move."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from rag_backend.errors import UpstreamBroken
from rag_backend.llm.gauging import WINDOW, Gauge, Gauged, quantile
from tests.rag_backend.llm.support import (
    ASK,
    ROLE,
    Clock,
    Scripted,
    collect,
    delta,
    saying,
    text_before_error,
)


async def test_counts_what_is_in_flight_and_what_became_of_it() -> None:
    cut = [ROLE, delta(content="Twel"), UpstreamBroken("cut")]
    gauge = Gauge()
    provider = Gauged(Scripted(saying("Twelve."), cut, saying("Twelve.")), gauge)
    await collect(provider)
    await text_before_error(provider, UpstreamBroken)
    async with aclosing(provider.stream(ASK)) as left:
        await anext(left)
        assert gauge.in_flight == 1
    assert (gauge.in_flight, gauge.answers, gauge.failures) == (0, 1, 1)


async def test_measures_the_first_output_not_the_role() -> None:
    clock, gauge = Clock(), Gauge()
    async with aclosing(Gauged(Scripted(saying("Twelve.")), gauge, clock).stream(ASK)) as chunks:
        await anext(chunks)
        clock.now += 2
        await anext(chunks)
        clock.now += 2
        await anext(chunks)
    assert gauge.first_tokens == [2.0]


def test_the_quantiles_look_back_on_the_last_answers_only() -> None:
    gauge = Gauge()
    for seconds in [100.0] * 50 + [1.0] * WINDOW:
        gauge.saw_first_token(seconds)
    assert quantile(gauge.first_tokens, 0.95) == 1.0


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [
        ([], 0.5, None),
        ([3.0], 0.95, 3.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([float(n) for n in range(100, 0, -1)], 0.95, 95.0),
    ],
)
def test_quantile(values: list[float], share: float, wanted: float | None) -> None:
    assert quantile(values, share) == wanted
