"""Looking at the memory of a device that may not answer."""

from __future__ import annotations

import asyncio
import threading

from llm_offline.gauging import Gauge
from llm_offline.threads import Threads
from tests.llm_offline.puppets import Network

FIGURES = {"used_bytes": 1, "free_bytes": 1, "total_bytes": 2}


class _Hanging(Network):
    """Its driver does not return until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.returns = threading.Event()
        self.asked: list[int] = []

    def memory(self) -> dict[str, int]:
        self.asked.append(threading.get_ident())
        assert self.returns.wait(30)
        return super().memory()


class _Lost(Network):
    def memory(self) -> dict[str, int]:
        raise RuntimeError("CUDA error: device-side assert triggered")


async def test_a_look_that_hangs_holds_nobody_up_and_is_not_repeated() -> None:
    threads, network = Threads(), _Hanging()
    gauge = Gauge(threads)
    both = await asyncio.gather(gauge.read(network, 0.01), gauge.read(network, 0.01))
    assert both == [{}, {}]
    assert await gauge.read(network, 0) == {}
    while not network.asked:
        await asyncio.sleep(0.001)
    assert len(network.asked) == 1
    assert threading.get_ident() not in network.asked
    assert not threads.join(0)
    network.returns.set()
    assert await gauge.read(network, 30) == FIGURES
    assert await gauge.read(network, 30) == FIGURES
    assert threads.join(30)


async def test_a_device_that_is_lost_tells_nothing() -> None:
    gauge = Gauge(Threads())
    assert await gauge.read(_Lost(), 30) == {}
    assert await gauge.read(Network(), 30) == FIGURES
