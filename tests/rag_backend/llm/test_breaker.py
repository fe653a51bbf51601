"""The breaker, by a clock that the test moves."""

from __future__ import annotations

import logging
from contextlib import aclosing

import pytest

from rag_backend.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamLimited,
    UpstreamMisconfigured,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from rag_backend.llm.breaker import RESTING, Breaker, Circuit
from rag_backend.upstream import LOADING
from tests.rag_backend.llm.support import (
    ASK,
    FOREVER,
    ROLE,
    Clock,
    Scripted,
    Step,
    collect,
    delta,
    finish,
    loading,
    saying,
    text_before_error,
    text_of,
)

DOWN: list[Step] = [UpstreamUnavailable("Provider 'a' cannot be reached: check it.")]
SOUND = saying("Twelve.")


class Bench:
    """One host that plays a script, its breaker, and the clock."""

    def __init__(self, *scripts: list[Step], threshold: int = 3) -> None:
        self.clock = Clock()
        self.circuit = Circuit(threshold, 5, self.clock)
        self.host = Scripted(*scripts)
        self.breaker = Breaker(self.host, self.circuit)

    async def fail(self, times: int = 1) -> Exception:
        for _ in range(times):
            _, error = await text_before_error(self.breaker, UpstreamError)
        return error

    @property
    def asked(self) -> int:
        return len(self.host.requests)


async def test_failures_in_a_row_open_it() -> None:
    bench = Bench(DOWN)
    await bench.fail(2)
    assert bench.circuit.state == "closed"
    await bench.fail()
    assert (bench.circuit.state, bench.circuit.failures) == ("open", 3)

    error = await bench.fail()
    assert bench.asked == 3  # the host was left alone
    assert isinstance(error, UpstreamUnavailable)
    assert (error.code, error.retry_after) == (RESTING, 5)
    assert str(error) == (
        "Provider 'a' cannot be reached: check it. After 3 failures in a row nobody is sent there "
        "for another 5 s (LLM_BREAKER_THRESHOLD)."
    )
    assert error.headers() == {"x-should-retry": "false", "retry-after": "5"}


async def test_a_whole_answer_starts_the_count_again() -> None:
    bench = Bench(DOWN, DOWN, SOUND, DOWN, DOWN, SOUND)
    await bench.fail(2)
    await collect(bench.breaker)
    assert bench.circuit.last_error is None
    await bench.fail(2)
    assert bench.circuit.state == "closed"
    assert bench.circuit.failures == 2


async def test_after_the_interval_one_request_tries_it() -> None:
    bench = Bench(DOWN, [ROLE, FOREVER], SOUND, threshold=1)
    await bench.fail()
    bench.clock.now += 4.9
    assert bench.circuit.state == "open"
    bench.clock.now += 0.1
    assert bench.circuit.state == "half-open"
    async with aclosing(bench.breaker.stream(ASK)) as trial:
        await anext(trial)
        error = await bench.fail()
        assert "while one request tries it" in str(error)
        assert bench.asked == 2
    # The trial's client hung up: that says nothing, and the next one may try.
    assert bench.circuit.state == "half-open"
    assert text_of(await collect(bench.breaker)) == "Twelve."
    assert bench.circuit.state == "closed"


async def test_a_trial_that_fails_opens_it_again() -> None:
    bench = Bench(DOWN, threshold=2)
    await bench.fail(2)
    bench.clock.now += 5
    await bench.fail()
    assert bench.circuit.state == "open"
    assert bench.asked == 3
    bench.clock.now += 4
    await bench.fail()
    assert bench.asked == 3


async def test_the_trials_first_output_lets_the_others_in() -> None:
    bench = Bench(DOWN, [ROLE, delta(content="Twel"), FOREVER], SOUND, threshold=1)
    await bench.fail()
    bench.clock.now += 5
    async with aclosing(bench.breaker.stream(ASK)) as trial:
        await anext(trial)
        assert bench.circuit.state == "half-open"
        await anext(trial)
        assert bench.circuit.state == "closed"
        assert text_of(await collect(bench.breaker)) == "Twelve."


async def test_a_host_that_starts_answers_and_breaks_them_opens_at_once() -> None:
    cut: list[Step] = [ROLE, delta(content="Twel"), UpstreamBroken("cut")]
    bench = Bench(DOWN, DOWN, DOWN, cut)
    await bench.fail(3)
    bench.clock.now += 5
    await bench.fail()
    assert bench.circuit.state == "open"


@pytest.mark.parametrize(
    "error",
    [UpstreamRefused("wrong", status=400), UpstreamLimited("full"), loading()],
    ids=["400", "429", "loading"],
)
async def test_what_says_nothing_against_a_host_does_not_count(error: UpstreamError) -> None:
    bench = Bench([error], threshold=1)
    await bench.fail(3)
    assert (bench.circuit.state, bench.circuit.failures) == ("closed", 0)
    assert bench.asked == 3


@pytest.mark.parametrize("status", [400, 422])
async def test_a_clients_mistake_is_no_trouble_of_the_host(status: int) -> None:
    bench = Bench([UpstreamRefused("wrong", status=status)])
    await bench.fail()
    assert (bench.circuit.rank, bench.circuit.last_error) == (1, None)


async def test_a_host_that_does_not_take_the_key_is_asked_last() -> None:
    bench = Bench([UpstreamMisconfigured("wrong", status=401)], threshold=1)
    await bench.fail()
    assert (bench.circuit.rank, bench.circuit.state) == (2, "closed")
    assert bench.circuit.last_error is not None  # which is shown


async def test_a_refusal_shows_that_the_host_is_back() -> None:
    bench = Bench(DOWN, [UpstreamRefused("wrong", status=400)], threshold=1)
    await bench.fail()
    bench.clock.now += 5
    await bench.fail()
    assert bench.circuit.state == "closed"


@pytest.mark.parametrize(
    "error", [UpstreamError("500"), UpstreamTimeout("slow"), UpstreamBroken("cut")]
)
async def test_what_counts(error: UpstreamError) -> None:
    bench = Bench([error], threshold=1)
    await bench.fail()
    assert bench.circuit.state == "open"


async def test_a_client_that_hangs_up_does_not_count() -> None:
    bench = Bench([ROLE, delta(content="Twel"), FOREVER], threshold=1)
    for _ in range(3):
        async with aclosing(bench.breaker.stream(ASK)) as chunks:
            await anext(chunks)
    assert (bench.circuit.state, bench.circuit.failures) == ("closed", 0)
    assert bench.host.open == 0


async def test_a_defect_of_ours_does_not_count() -> None:
    bench = Bench(DOWN, [KeyError("ours")], threshold=1)
    await bench.fail()
    bench.clock.now += 5
    await text_before_error(bench.breaker, KeyError)
    assert bench.circuit.state == "half-open"  # and the place is free again
    await text_before_error(bench.breaker, KeyError)


async def test_answers_begun_before_it_opened_may_close_it() -> None:
    bench = Bench([ROLE, delta(content="Twelve."), finish()], DOWN, threshold=1)
    async with aclosing(bench.breaker.stream(ASK)) as early:
        await anext(early)
        await bench.fail()
        assert bench.circuit.state == "open"
        async for _ in early:
            pass
    assert bench.circuit.state == "closed"


async def test_late_failures_do_not_keep_it_open_for_longer() -> None:
    bench = Bench([ROLE, UpstreamBroken("cut")], DOWN, threshold=1)
    early = bench.breaker.stream(ASK)
    await anext(early)
    await bench.fail()
    bench.clock.now += 3
    with pytest.raises(UpstreamBroken):
        await anext(early)
    assert bench.circuit.wait == 2


async def test_it_never_opens_with_a_threshold_of_0() -> None:
    bench = Bench(DOWN, threshold=0)
    await bench.fail(20)
    assert bench.circuit.state == "closed"
    assert bench.asked == 20


async def test_looks_decide_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    bench = Bench(
        [UpstreamUnavailable("Provider 'a' cannot be reached: check it.")], SOUND, threshold=1
    )
    opened: list[str] = []
    bench.circuit.opened = lambda: opened.append(bench.circuit.state)
    await bench.fail()
    assert opened == ["open"]
    bench.clock.now += 5
    bench.circuit.hold()
    assert bench.circuit.state == "open"
    bench.circuit.try_now()
    assert bench.circuit.state == "half-open"
    await collect(bench.breaker)
    bench.circuit.hold()
    bench.circuit.try_now()
    assert bench.circuit.state == "closed"
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "Provider 'a' cannot be reached",
        "answers again; the last failure was",
    ]


async def test_hosts_are_ranked() -> None:
    bench = Bench([loading()], SOUND, DOWN, DOWN, [FOREVER], threshold=2)
    circuit = bench.circuit
    assert circuit.rank == 1
    await bench.fail()
    assert circuit.last_error is not None
    assert (circuit.state, circuit.rank, circuit.last_error.code) == ("closed", 2, LOADING)
    bench.clock.now += 5
    assert circuit.rank == 1  # a trouble is forgotten after an interval
    await collect(bench.breaker)
    await bench.fail()
    assert circuit.rank == 2
    await bench.fail()
    assert circuit.rank == 3
    bench.clock.now += 5
    assert circuit.rank == 0  # who tries it is found at once
    token = circuit.enter()
    assert circuit.rank == 3
    circuit.leave(object())
    assert circuit.rank == 3  # only the trial gives its place back
    circuit.leave(token)
    assert circuit.rank == 0
