"""Several hosts behind one name."""

from __future__ import annotations

from rag_backend.errors import UpstreamBroken, UpstreamRefused
from rag_backend.llm.balancing import Balanced
from tests.rag_backend.llm.support import ASK, Scripted, collect, saying, text_before_error


async def test_the_host_with_the_fewest_in_flight_is_asked() -> None:
    hosts = [Scripted(saying("Twelve.")) for _ in range(3)]
    balanced = Balanced(hosts)
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


async def test_a_host_that_failed_rests() -> None:
    failing = Scripted([UpstreamBroken("cut")])
    sound = Scripted(saying("Twelve."))
    balanced = Balanced([failing, sound])
    await text_before_error(balanced, UpstreamBroken)
    await collect(balanced)
    await collect(balanced)
    assert (len(failing.requests), len(sound.requests)) == (1, 2)


async def test_where_all_failed_the_one_that_rested_longest_is_asked() -> None:
    hosts = [Scripted([UpstreamBroken("cut")]) for _ in range(2)]
    balanced = Balanced(hosts)
    for _ in range(4):
        await text_before_error(balanced, UpstreamBroken)
    assert [len(host.requests) for host in hosts] == [2, 2]


async def test_a_refusal_is_no_failure_of_the_host() -> None:
    host = Scripted([UpstreamRefused("wrong", status=400)])
    other = Scripted(saying("Twelve."))
    balanced = Balanced([host, other])
    await text_before_error(balanced, UpstreamRefused)
    await text_before_error(balanced, UpstreamRefused)
    assert (len(host.requests), len(other.requests)) == (2, 0)
