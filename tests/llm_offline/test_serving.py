"""One model at a time: who serves while another one comes, and what a failure leaves."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from llm_offline.engine.interface import GenerationRequest
from llm_offline.errors import Conflict, Loading, QueueFull, ShuttingDown, StartError, Unloaded
from llm_offline.serving import Serving
from llm_offline.settings import Settings, changed
from tests.llm_offline.puppets import MIB, PuppetLoader

PATIENCE = 60


def _settings(**more: object) -> Settings:
    return Settings(_env_file=None, model="old", **more)  # type: ignore[arg-type]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def loader() -> PuppetLoader:
    return PuppetLoader()


@pytest.fixture
async def serving(loader: PuppetLoader) -> AsyncIterator[Serving]:
    serving = Serving(_settings(max_queue=1, max_batch=2), loader)
    serving.start()
    await _until(lambda: serving.here is not None)
    yield serving
    serving.stop()
    for network in list(loader.networks.values()):
        network.say("")
    await _until(lambda: not serving.has_threads())


async def _say(serving: Serving) -> str:
    """A text of the model that serves."""
    ready = serving.ready()
    generation = ready.engine.generate(GenerationRequest((1, 2, 3)))
    del ready
    return "".join([delta.text async for delta in generation])


async def test_a_new_model_is_loaded_beside_the_old_one(
    serving: Serving, loader: PuppetLoader
) -> None:
    loader.gates["new"] = threading.Event()
    change = serving.load(serving.base("new"))
    await _until(lambda: loader.loads == ["old", "new"])
    assert serving.coming == "new"
    assert serving.ready().name == "old"
    saying = asyncio.create_task(_say(serving))
    loader.networks["old"].steps.put(ord("a"))
    loader.gates["new"].set()
    await _until(lambda: serving.ready().name == "new")
    # The old one is there until its last request is answered, and not longer.
    assert not change.done()
    loader.networks["old"].say("bc")
    assert await saying == "abc"
    found = await change
    assert (found.model, found.replaced, found.beside) == ("new", "old", True)
    del saying
    gc.collect()
    assert set(loader.networks) == {"new"}


async def test_without_room_for_both_requests_wait(serving: Serving, loader: PuppetLoader) -> None:
    loader.free = 320 * MIB  # 100 for weights, 128 to spare, and not again
    loader.gates["new"] = threading.Event()
    saying = asyncio.create_task(_say(serving))
    await _until(lambda: serving.ready().busy)
    change = serving.load(serving.base("new"))
    await _until(lambda: serving.state == "loading")
    with pytest.raises(Loading, match="new is still loading: waiting for the last requests of old"):
        serving.ready()
    assert loader.loads == ["old"]
    loader.networks["old"].say("bye")
    assert await saying == "bye"
    del saying
    await _until(lambda: loader.loads == ["old", "new"])
    gc.collect()
    assert not loader.networks  # the new one is not made before the old one has gone
    waiting = asyncio.create_task(serving.wait(PATIENCE))
    await asyncio.sleep(0)
    loader.gates["new"].set()
    await waiting
    assert serving.ready().name == "new"
    assert not (await change).beside


@pytest.mark.parametrize("free", [1000 * MIB, 320 * MIB], ids=["beside", "in its place"])
async def test_a_load_that_fails_leaves_the_old_model(
    serving: Serving, loader: PuppetLoader, free: int
) -> None:
    loader.free = free
    loader.broken["new"] = "new is damaged: copy it again"
    with pytest.raises(StartError, match="new is damaged") as failure:
        await serving.load(serving.base("new"))
    assert ("old serves again" in str(failure.value)) == (free < 400 * MIB)
    assert serving.ready().name == "old"
    gc.collect()
    assert set(loader.networks) == {"old"}
    with pytest.raises(StartError, match="no such folder"):
        await serving.load(serving.base("unknown"))
    assert serving.ready().name == "old"


@pytest.mark.parametrize("free", [1000 * MIB, 320 * MIB], ids=["beside", "in its place"])
async def test_a_load_that_fails_leaves_no_name(
    serving: Serving, loader: PuppetLoader, free: int
) -> None:
    loader.free = free
    loader.broken["new"] = "new is damaged"
    for state in ("ready", "idle", "unloaded"):
        if state != "ready":
            await serving.unload(idle=state == "idle")
        with pytest.raises(StartError):
            await serving.load(serving.base("new"))
        assert (serving.state, serving.model_name, serving.coming) == (state, "old", None)
        if state != "ready":
            await serving.load(serving.base(None))


async def test_when_neither_loads(serving: Serving, loader: PuppetLoader) -> None:
    loader.free = 320 * MIB
    loader.broken = {"new": "new is damaged", "old": "old has gone"}
    with pytest.raises(StartError, match="old could not be brought back: old has gone"):
        await serving.load(serving.base("new"))
    await serving.wait(PATIENCE)
    with pytest.raises(Unloaded, match="no model serves: new is damaged"):
        serving.ready()
    loader.broken = {}
    await serving.load(serving.base("old"))
    assert serving.ready().name == "old"


async def test_what_would_not_fit_at_all_disturbs_nobody(
    serving: Serving, loader: PuppetLoader
) -> None:
    loader.free = 210 * MIB
    with pytest.raises(StartError, match=r"needs about 0\.1 GiB .* 0\.2 GiB would be free without"):
        await serving.load(serving.base("new"))
    assert serving.ready().name == "old"
    assert loader.loads == ["old"]


async def test_one_change_at_a_time(serving: Serving, loader: PuppetLoader) -> None:
    loader.gates["new"] = threading.Event()
    change = serving.load(serving.base("new"))
    assert serving.load(serving.base("new")) is change
    with pytest.raises(Conflict, match="new is being loaded"):
        serving.load(serving.base("third"))
    with pytest.raises(Conflict):
        await serving.unload()
    assert serving.here is not None
    loader.gates["new"].set()
    await change


async def test_unloading(serving: Serving, loader: PuppetLoader) -> None:
    saying = asyncio.create_task(_say(serving))
    await _until(lambda: serving.ready().busy)
    leaving = asyncio.create_task(serving.unload())
    await _until(lambda: serving.state == "unloaded")
    await serving.wait(PATIENCE)  # nothing is to be expected
    with pytest.raises(Unloaded, match="POST /v1/models/load") as told:
        serving.ready()
    assert "loading" not in str(told.value)  # which clients take for a reason to wait
    with pytest.raises(Conflict):
        serving.load(serving.base(None))
    loader.networks["old"].say("bye")
    assert await saying == "bye"
    assert await leaving == "old"
    del saying
    gc.collect()
    assert not loader.networks
    assert await serving.unload() is None
    await serving.load(serving.base(None))
    assert serving.ready().name == "old"


async def test_the_wait_is_bounded_in_time_and_number(
    serving: Serving, loader: PuppetLoader
) -> None:
    await serving.unload()
    loader.gates["old"] = threading.Event()
    change = serving.load(serving.base(None))
    await serving.wait(0)
    with pytest.raises(Loading):
        serving.ready()
    waiting = [asyncio.create_task(serving.wait(PATIENCE)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull, match="3 requests wait for old"):
        await serving.wait(PATIENCE)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    await serving.wait(0)  # a place is free again
    loader.gates["old"].set()
    await asyncio.gather(*waiting[1:], change)


async def test_nobody_asks_and_somebody_does(loader: PuppetLoader) -> None:
    serving = Serving(_settings(idle_unload=1), loader)
    serving.start()
    await _until(lambda: serving.state == "idle")
    await _until(lambda: gc.collect() >= 0 and not loader.networks)
    assert serving.model_name == "old"
    assert serving.context == 1024
    loader.broken["old"] = "the disk has gone"
    await serving.wait(PATIENCE)
    with pytest.raises(Unloaded, match="the disk has gone"):
        serving.ready()
    loader.broken.clear()
    await asyncio.gather(*(serving.wait(PATIENCE) for _ in range(3)))
    ready = serving.ready()
    # As long as a request runs it is not idle, however long it takes.
    with ready.held():
        await asyncio.sleep(0)
        assert serving.here is ready
    del ready
    assert loader.loads == ["old"] * 3
    await _until(lambda: serving.state == "idle")
    serving.stop()


async def test_a_trial_leaves_nothing_and_changes_nothing(
    serving: Serving, loader: PuppetLoader
) -> None:
    async def use(tried: object, need: object) -> str:
        assert serving.ready().name == "old"
        assert set(loader.networks) == {"old", "new"}
        return "used"

    assert await serving.try_out(serving.base("new"), use) == "used"
    gc.collect()
    assert set(loader.networks) == {"old"}
    loader.free = 250 * MIB
    with pytest.raises(StartError, match="unload old first"):
        await serving.try_out(serving.base("new"), use)
    loader.free = 1000 * MIB

    async def fail(tried: object, need: object) -> str:
        raise StartError("it said nonsense")

    with pytest.raises(StartError, match="nonsense"):
        await serving.try_out(serving.base("new"), fail)
    gc.collect()
    assert set(loader.networks) == {"old"}
    assert serving.ready().name == "old"


async def test_stopping_in_a_load(loader: PuppetLoader) -> None:
    loader.gates["old"] = threading.Event()
    serving = Serving(_settings(), loader)
    serving.start()
    await _until(lambda: loader.loads == ["old"])
    waiting = asyncio.create_task(serving.wait(PATIENCE))
    await asyncio.sleep(0)
    serving.stop()
    await waiting
    with pytest.raises(ShuttingDown):
        serving.ready()
    assert serving.has_threads()
    loader.gates["old"].set()
    await _until(lambda: not serving.has_threads())


async def test_a_first_load_that_fails_is_told(
    loader: PuppetLoader, caplog: pytest.LogCaptureFixture
) -> None:
    loader.broken["old"] = "old is damaged"
    serving = Serving(_settings(), loader)
    told = asyncio.Event()
    serving.on_failure = told.set
    serving.start()
    await asyncio.wait_for(told.wait(), PATIENCE)
    assert str(serving.failure) == "old is damaged"
    assert "old is damaged" not in caplog.text  # it is the process's last word
    serving.stop()


async def test_a_later_load_that_fails_is_logged_once(
    serving: Serving, loader: PuppetLoader, caplog: pytest.LogCaptureFixture
) -> None:
    loader.broken["new"] = "new is damaged"
    with pytest.raises(StartError):
        await serving.load(serving.base("new"))
    await _until(lambda: bool(caplog.records))
    (told,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert told.getMessage() == "new was not loaded: new is damaged"


async def test_what_a_load_begins_with() -> None:
    serving = Serving(
        _settings(revision="v2", chat_template="llama3", max_context=64), PuppetLoader()
    )
    assert serving.base("old") == serving.base(None) == serving.settings
    other = serving.base("other")
    assert (other.model, other.revision, other.chat_template) == ("other", None, None)
    assert other.max_context == 64


async def test_a_load_of_another_model_knows_nothing_of_the_last_one(serving: Serving) -> None:
    wish = changed(serving.base("new"), {"quantization": "int8", "max_context": 64})
    await serving.load(wish)
    for name in ("new", "old", "third"):
        base = serving.base(name)
        assert (base.model, base.quantization, base.max_context) == (name, "none", None)
    assert serving.base(None) == wish  # as it was
