"""Threads that compute beside the engine."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import Any

import pytest
import torch
from torch import nn

from llm_offline.workers import Workers


@pytest.fixture
def two_threads() -> Any:
    """Torch with helpers, as on users' machines."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


async def test_each_computes_alone_and_behind_the_others(two_threads: None) -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0) if sys.platform == "linux" else 0
    model = nn.Linear(4, 4)
    workers = Workers(model, "cpu")
    together = threading.Barrier(2)

    def look(own: nn.Linear, item: int) -> tuple[int, int, bool, bool]:
        together.wait(30)
        own(torch.ones(1, 4))
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) if mine >= 0 else 0
        return torch.get_num_threads(), nice, own is model, own.weight is model.weight

    found = await workers.map(look, [1, 2])
    workers.stop()
    nice = min(19, mine + 10) if sys.platform == "linux" else found[0][1]
    assert found == [(1, nice, False, True)] * 2
    # Threads that begin later, such as the next engine's, still get all cores.
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]


@pytest.mark.skipif(sys.platform != "linux", reason="counts the system's threads")
async def test_no_helpers_stay(two_threads: None) -> None:
    model = nn.Linear(512, 512)
    workers = Workers(model, "cpu")

    before = len(os.listdir("/proc/self/task"))

    def work(own: nn.Linear, item: int) -> None:
        for _ in range(20):
            own(torch.ones(512, 512))
        # Those that set torch back end at once, which may take a busy machine a while; helpers
        # would stay.
        deadline = time.monotonic() + 30
        while len(os.listdir("/proc/self/task")) > before + workers.count:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    await workers.map(work, range(8))
    workers.stop()


async def test_a_thread_that_cannot_begin_costs_its_own_work_only() -> None:
    """Copying the model takes memory, which may be there the next time."""

    class Reluctant(nn.Linear):
        copies = 0

        def __deepcopy__(self, memo: Any) -> Reluctant:
            Reluctant.copies += 1
            if Reluctant.copies == 1:
                raise MemoryError
            return self

    workers = Workers(Reluctant(2, 2), "cuda")  # of which it has one thread; nothing goes there
    with pytest.raises(MemoryError):
        await workers.map(lambda own, item: item, [1])
    assert await workers.map(lambda own, item: item, [1, 2, 3]) == [1, 2, 3]
    workers.stop()


async def test_callers_take_turns_and_a_cancelled_one_leaves_at_once() -> None:
    workers = Workers(nn.Linear(2, 2), "cuda")
    gate, done = threading.Event(), list[str]()

    def work(own: nn.Linear, item: str) -> None:
        assert gate.wait(30)
        done.append(item)

    long = asyncio.ensure_future(workers.map(work, ["long"] * 1000))
    given_up = asyncio.ensure_future(workers.map(work, ["given up"] * 1000))
    short = asyncio.ensure_future(workers.map(work, ["short"] * 2))
    for _ in range(10):
        await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    for _ in range(10):  # until its items have heard of it
        await asyncio.sleep(0)
    gate.set()
    await short
    assert done.count("given up") == 0
    assert done.count("long") <= 4
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    workers.stop()
    assert workers.join(30)
    assert len(done) < 20
