"""What is known of each dependency, and what follows from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from rag_backend.metrics import Metrics
from rag_backend.readiness import Coming, Dependency, Failing, Readiness


class Scripted:
    """Something that is looked at."""

    def __init__(self, *results: str | Exception) -> None:
        self.results = list(results)
        self.looks = 0

    async def __call__(self) -> str:
        self.looks += 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result


def watching(*dependencies: Dependency, limit: float = 60) -> tuple[Readiness, Metrics]:
    metrics = Metrics()
    readiness = Readiness(metrics, interval=30, limit=limit)
    readiness.watch(dependencies)
    return readiness, metrics


def dependency(
    look: Callable[[], Awaitable[str]],
    name: str = "catalog",
    essential: bool = True,
    group: str | None = None,
    served: Callable[[], float | None] = lambda: None,
) -> Dependency:
    return Dependency(name, look, essential, group, served)


async def test_nothing_is_ready_before_the_first_look() -> None:
    readiness, _ = watching(dependency(Scripted("answers")))
    assert readiness.report()["status"] == "unready"
    await readiness.look()
    assert readiness.report()["status"] == "ready"


async def test_what_fails_is_named_with_the_reason_and_the_time() -> None:
    look = Scripted("answers", Failing("is away"), Failing("is still away"), "answers")
    readiness, metrics = watching(dependency(look), dependency(Scripted("well"), "chroma"))
    await readiness.look()
    await readiness.look()
    (missing,) = readiness.report()["missing"]
    assert (missing["name"], missing["reason"]) == ("catalog", "is away")
    await readiness.look()
    (later,) = readiness.report()["missing"]
    assert later == {**missing, "reason": "is still away"}
    shown = metrics.exposition().decode()
    assert 'rag_dependency_outages_total{dependency="catalog"} 1.0' in shown
    assert 'rag_dependency_up{dependency="catalog"} 0.0' in shown
    assert "rag_ready 0.0" in shown
    await readiness.look()
    assert readiness.report()["missing"] == []
    assert "rag_ready 1.0" in metrics.exposition().decode()


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ({"a": True, "b": True}, "ready"),
        ({"a": False, "b": True}, "degraded"),
        ({"a": False, "b": False}, "unready"),
    ],
)
async def test_of_a_group_one_is_enough(states: dict[str, bool], status: str) -> None:
    made = [
        dependency(Scripted("well" if well else Failing("down")), name, group="providers")
        for name, well in states.items()
    ]
    readiness, _ = watching(*made)
    await readiness.look()
    assert readiness.status == status


async def test_what_is_not_needed_only_degrades() -> None:
    readiness, _ = watching(dependency(Scripted(Failing("full")), "disk", essential=False))
    await readiness.look()
    report = readiness.report()
    assert report["status"] == "degraded"
    assert [one["name"] for one in report["missing"]] == ["disk"]


async def test_who_has_just_served_is_not_looked_at() -> None:
    look, last = Scripted(Failing("never asked")), time.monotonic()
    readiness, _ = watching(dependency(look, served=lambda: last))
    await readiness.look()
    assert readiness.status == "ready"
    assert look.looks == 0
    last -= 31
    await readiness.look()
    assert readiness.status == "unready"
    assert look.looks == 1


async def test_a_look_that_hangs_holds_nobody_up_and_is_not_repeated() -> None:
    looks, released = 0, asyncio.Event()

    async def hang() -> str:
        nonlocal looks
        looks += 1
        await released.wait()
        return "answers"

    readiness, _ = watching(dependency(hang), limit=0.01)
    await readiness.look()
    await readiness.look()
    assert looks == 1
    assert "did not answer" in readiness.report()["missing"][0]["reason"]
    released.set()
    await readiness.look()
    assert readiness.status == "ready"
    await readiness.stop()


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ((Coming("is still loading"), "loaded"), []),
        ((Coming("is still loading"), Failing("is away"), "loaded"), ["catalog is well again"]),
        ((Failing("is away"), Coming("is loading"), "answers"), ["catalog is well again"]),
        (
            ("answers", Coming("loads another"), "answers"),
            ["catalog fails: loads another", "catalog is well again"],
        ),
        ((Coming("loads"), "loaded", Failing("is away")), ["catalog fails: is away"]),
    ],
)
async def test_a_first_arrival_is_no_recovery(
    caplog: pytest.LogCaptureFixture, results: tuple[str | Exception, ...], said: list[str]
) -> None:
    readiness, _ = watching(dependency(Scripted(*results)))
    for _ in results:
        await readiness.look()
    assert caplog.messages == said


async def test_a_first_look_that_was_slow_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    released = asyncio.Event()

    async def slow() -> str:
        await released.wait()
        return "answers"

    readiness, _ = watching(dependency(slow), limit=0.01)
    await readiness.look()
    released.set()
    await readiness.look()
    assert (readiness.status, caplog.messages) == ("ready", [])


async def test_a_defect_in_a_look_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    readiness, _ = watching(dependency(Scripted(KeyError("x"), "answers")))
    await readiness.look()
    assert "KeyError" in readiness.report()["missing"][0]["reason"]
    assert "looking at catalog failed" in caplog.text
    await readiness.look()
    assert readiness.status == "ready"


async def test_what_does_not_work_is_looked_at_again_soon() -> None:
    sound, loading = Scripted("answers"), Scripted(Failing("loads"), "answers")
    waits: list[float] = []
    well = asyncio.Event()

    async def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            well.set()
            await asyncio.Event().wait()

    readiness = Readiness(Metrics(), interval=30, pause=pause)
    readiness.watch([dependency(sound), dependency(loading, name="encoder")])
    readiness.start()
    await asyncio.wait_for(well.wait(), 60)
    assert (waits, readiness.status) == ([2, 28], "ready")
    assert (sound.looks, loading.looks) == (1, 2)
    await readiness.stop()


async def test_rounds_go_on_until_it_is_stopped() -> None:
    look, rounds = Scripted("answers"), asyncio.Semaphore(0)

    async def pause(_seconds: float) -> None:
        rounds.release()
        await asyncio.sleep(0)

    readiness = Readiness(Metrics(), interval=30, pause=pause)
    readiness.watch([dependency(look)])
    readiness.start()
    for _ in range(3):
        await rounds.acquire()
    await readiness.stop()
    assert look.looks >= 3
