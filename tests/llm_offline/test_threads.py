"""Work in threads that end with it."""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from typing import Any

import pytest

from llm_offline.errors import StartError
from llm_offline.lazy import Lazy
from llm_offline.threads import Threads


async def test_results_and_failures_come_back() -> None:
    threads = Threads()
    assert await threads.run("work", threading.current_thread) is not threading.current_thread()

    def fail() -> None:
        raise StartError("no")

    with pytest.raises(StartError, match="no"):
        await threads.run("work", fail)
    assert threads.join(10)


async def test_work_goes_on_when_nobody_waits() -> None:
    threads, gate, done = Threads(), threading.Event(), threading.Event()

    def work() -> None:
        gate.wait(10)
        done.set()

    waiting = asyncio.create_task(threads.run("work", work))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not threads.join(0)
    gate.set()
    assert threads.join(10)
    assert done.is_set()


async def test_a_thread_on_its_way_out_keeps_nothing_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it was given and what it made may be a model that is unloaded by then."""

    class Model: ...

    loop, threads, gate = asyncio.get_running_loop(), Threads(), threading.Event()
    plain = loop.call_soon_threadsafe

    def lingering(*told: Any) -> None:
        plain(*told)
        assert gate.wait(30)

    monkeypatch.setattr(loop, "call_soon_threadsafe", lingering)
    given, made = Model(), Model()
    kept = [weakref.ref(given), weakref.ref(made)]
    found = await threads.run("work", functools.partial(lambda *of: of[1], given, made))
    assert found is made
    del given, made, found
    await asyncio.sleep(0)  # the loop itself has let go of the answer
    assert [one() for one in kept] == [None, None]
    assert not threads.join(0)
    gate.set()
    assert threads.join(30)


async def test_made_once_and_again_after_a_failure() -> None:
    made: list[int] = []

    async def make() -> int:
        made.append(1)
        if len(made) == 1:
            raise StartError("not yet")
        return len(made)

    lazy = Lazy(make)
    with pytest.raises(StartError):
        await lazy.get()
    assert await asyncio.gather(lazy.get(), lazy.get()) == [2, 2]
