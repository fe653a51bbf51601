"""The watch over a host that is left alone; its pauses are moves of the test's clock."""

from __future__ import annotations

import asyncio

from rag_backend.errors import UpstreamUnavailable
from rag_backend.llm.breaker import Circuit
from rag_backend.llm.watching import LONGEST_LOOK, Watch
from tests.rag_backend.llm.support import Clock


class Yard:
    """A circuit with a watch whose looks find what the test says."""

    def __init__(self, *found: bool, interval: float = 10) -> None:
        self.clock = Clock()
        self.circuit = Circuit(1, interval, self.clock)
        self.found = list(found)
        self.looks: list[tuple[float, float]] = []
        self.done = asyncio.Event()
        self.watch = Watch(self.circuit, self._look, interval, self._pause)

    def fail(self) -> None:
        self.circuit.failed(UpstreamUnavailable("down"), None)

    async def _pause(self, seconds: float) -> None:
        self.clock.now += seconds
        await asyncio.sleep(0)

    async def _look(self, limit: float) -> bool:
        self.looks.append((self.clock.now, limit))
        self.clock.now += limit  # as long as it may take
        if not self.found:
            self.done.set()
            await asyncio.Event().wait()
        return self.found.pop(0)


async def until(condition: object) -> None:
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0)


async def test_a_host_stays_alone_until_it_answers_a_look() -> None:
    yard = Yard(False, False, True)
    yard.fail()
    await until(lambda: yard.circuit.state == "half-open")
    assert yard.looks == [(7, LONGEST_LOOK), (17, LONGEST_LOOK), (27, LONGEST_LOOK)]
    await yard.watch.aclose()


async def test_a_short_interval_has_short_looks() -> None:
    yard = Yard(True, interval=1)
    yard.fail()
    await until(lambda: yard.looks)
    assert yard.looks == [(0.5, 0.5)]
    await yard.watch.aclose()


async def test_it_begins_again_with_each_opening() -> None:
    yard = Yard(True, True)
    for looks in (1, 2):
        yard.fail()
        await until(lambda looks=looks: len(yard.looks) == looks)
        await until(lambda: yard.circuit.state == "half-open")
        yard.circuit.succeeded()
        await asyncio.sleep(0)
    await yard.watch.aclose()


async def test_nobody_looks_at_a_sound_host() -> None:
    yard = Yard(False)
    yard.fail()
    yard.circuit.succeeded()
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(yard.looks) <= 1  # the look that was due
    assert yard.circuit.state == "closed"
    await yard.watch.aclose()


async def test_closing_ends_a_look() -> None:
    yard = Yard()
    yard.fail()
    await yard.done.wait()
    await yard.watch.aclose()
    await yard.watch.aclose()
    assert len(asyncio.all_tasks()) == 1
