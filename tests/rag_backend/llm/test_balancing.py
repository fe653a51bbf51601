"""Several hosts behind one name."""

from __future__ import annotations

from rag_backend.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from rag_backend.llm.balancing import Balanced
from rag_backend.llm.breaker import RESTING
from tests.rag_backend.llm.support import (
    ASK,
    Clock,
    Scripted,
    collect,
    endpoint,
    loading,
    saying,
    text_before_error,
)


async def test_the_host_with_the_fewest_in_flight_is_asked() -> None:
    hosts = [Scripted(saying("Twelve.")) for _ in range(3)]
    balanced = Balanced([endpoint(host) for host in hosts])
    streams = [balanced.stream(ASK) for _ in range(6)]
    for stream in streams:
        await anext(stream)
    assert [len(host.requests) for host in hosts] == [2, 2, 2]

    await streams[1].aclose()  # frees one place on the second host
    await collect(balanced)
    assert [len(host.requests) for host in hosts] == [2, 3, 2]
    for stream in streams:
        await stream.aclose()
    assert [host.open for host in hosts] == [0, 0, 0]


async def test_a_host_in_trouble_is_asked_last_for_an_interval() -> None:
    for error in (UpstreamBroken("cut"), UpstreamLimited("full"), loading()):
        clock = Clock()
        failing, sound = Scripted([error], saying("Twelve.")), Scripted(saying("Twelve."))
        balanced = Balanced([endpoint(failing, clock), endpoint(sound, clock)])
        await text_before_error(balanced, UpstreamError)
        await collect(balanced)
        await collect(balanced)
        assert (len(failing.requests), len(sound.requests)) == (1, 2)
        clock.now += 5
        await collect(balanced)
        assert len(failing.requests) == 2


async def test_a_host_that_comes_back_is_tried_while_others_are_sound() -> None:
    clock = Clock()
    sound = Scripted(saying("Twelve."))
    back = Scripted([UpstreamUnavailable("down")], saying("Twelve."))
    hosts = [endpoint(sound, clock), endpoint(back, clock, threshold=1)]
    balanced = Balanced(hosts)
    first = balanced.stream(ASK)
    await anext(first)
    await text_before_error(balanced, UpstreamUnavailable)
    await collect(balanced)
    assert (len(sound.requests), len(back.requests)) == (2, 1)
    await first.aclose()

    clock.now += 5
    await collect(balanced)
    assert (len(sound.requests), len(back.requests)) == (2, 2)
    assert hosts[1].circuit.state == "closed"


async def test_where_all_failed_each_is_asked_again() -> None:
    hosts = [Scripted([UpstreamBroken("cut")]) for _ in range(2)]
    balanced = Balanced([endpoint(host, threshold=2) for host in hosts])
    for _ in range(4):
        await text_before_error(balanced, UpstreamBroken)
    assert [len(host.requests) for host in hosts] == [2, 2]
    # Every breaker is open now: that is an answer, and it comes at once.
    _, error = await text_before_error(balanced, UpstreamUnavailable)
    assert isinstance(error, UpstreamUnavailable)
    assert error.code == RESTING
    assert [len(host.requests) for host in hosts] == [2, 2]


async def test_a_refusal_costs_the_host_no_failure() -> None:
    host = Scripted([UpstreamRefused("wrong", status=400)])
    only = endpoint(host, threshold=1)
    for _ in range(3):
        await text_before_error(Balanced([only]), UpstreamRefused)
    assert len(host.requests) == 3
