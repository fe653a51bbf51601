"""Requests to the encoder: let in, loaded for, and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from llm_offline.encoding import Encoding
from llm_offline.errors import (
    EncoderUnavailable,
    OutOfMemory,
    QueueFull,
    ShuttingDown,
    StartError,
)


@dataclass(frozen=True)
class Vectors:
    vectors: Sequence[bytes]
    tokens: int


class FakeEncoder:
    """Answers when `gate` is set."""

    name, device, dimensions = "fake", "cpu", 1
    max_input_tokens = None

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.stopped = False

    async def encode(self, texts: Sequence[str]) -> Vectors:
        await self.gate.wait()
        return Vectors([b"\0\0\0\0" for _ in texts], len(texts))

    def stop(self) -> None:
        self.stopped = True

    def join(self, seconds: float) -> bool:
        return self.stopped


def _asking(encoding: Encoding) -> asyncio.Task[Vectors]:
    async def ask() -> Vectors:
        async def work(encoder: FakeEncoder) -> Vectors:
            return await encoder.encode(["a"])

        return await encoding.use(work)  # type: ignore[arg-type]

    return asyncio.ensure_future(ask())


def _loading(*outcomes: FakeEncoder | Exception) -> Callable[[], Awaitable[FakeEncoder]]:
    left = list(outcomes)

    async def load() -> FakeEncoder:
        await asyncio.sleep(0)
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return load


async def test_as_many_as_may_and_their_places_come_back() -> None:
    encoder = FakeEncoder()
    encoding = Encoding(_loading(encoder), limit=2)
    assert encoding.status().state == "not loaded"
    first, second = _asking(encoding), _asking(encoding)
    await asyncio.sleep(0)
    assert encoding.status().state == "loading"
    with pytest.raises(QueueFull, match="2 requests for embeddings are under way") as refused:
        await _asking(encoding)
    assert refused.value.headers()["retry-after"]
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    third = _asking(encoding)
    encoder.gate.set()
    assert (await second).tokens == (await third).tokens == 1
    now = encoding.status()
    assert (now.state, now.device, now.waiting) == ("ready", "cpu", 0)
    assert (now.asked, now.answered) == (3, 2)


async def test_one_load_for_all_even_if_the_first_who_asked_goes_away() -> None:
    encoder = FakeEncoder()
    encoder.gate.set()
    encoding = Encoding(_loading(encoder), limit=9)  # a second load would find nothing
    first = _asking(encoding)
    await asyncio.sleep(0)
    first.cancel()
    assert (await _asking(encoding)).tokens == 1


async def test_a_load_that_fails_is_told_to_all_and_tried_again() -> None:
    encoder = FakeEncoder()
    encoder.gate.set()
    failures = StartError("no such model"), OutOfMemory("no memory")
    encoding = Encoding(_loading(*failures, encoder), limit=9)
    told = await asyncio.gather(_asking(encoding), _asking(encoding), return_exceptions=True)
    assert [type(one) for one in told] == [EncoderUnavailable] * 2
    assert str(told[0]) == "no such model"
    assert (encoding.status().state, encoding.status().reason) == ("failed", "no such model")
    with pytest.raises(OutOfMemory, match="no memory"):
        await _asking(encoding)
    assert (await _asking(encoding)).tokens == 1
    assert (encoding.status().state, encoding.status().reason) == ("ready", None)


async def test_a_load_that_fails_as_nobody_expected_is_seen() -> None:
    encoder = FakeEncoder()
    encoder.gate.set()
    encoding = Encoding(_loading(ZeroDivisionError("a secret"), encoder), limit=9)
    with pytest.raises(ZeroDivisionError):
        await _asking(encoding)
    told = encoding.status()
    assert told.state == "failed"
    assert told.reason == "internal error: the server's log has the details"
    assert (await _asking(encoding)).tokens == 1
    assert (encoding.status().state, encoding.status().reason) == ("ready", None)


async def test_nobody_asks_and_somebody_does() -> None:
    encoders, given_back = [FakeEncoder(), FakeEncoder()], asyncio.Event()

    async def give_back() -> None:
        given_back.set()

    encoding = Encoding(_loading(*encoders), limit=9, give_back=give_back)
    encoding.unload_after(0)
    first = _asking(encoding)
    async with asyncio.timeout(20):
        while encoding.status().state != "ready":
            await asyncio.sleep(0)
        # As long as a request is under way it is not idle, however long that takes.
        for _ in range(20):
            await asyncio.sleep(0)
        assert not encoders[0].stopped
        encoders[0].gate.set()
        assert (await first).tokens == 1
        await given_back.wait()
        assert encoders[0].stopped
        assert encoding.status().state == "not loaded"
        encoders[1].gate.set()
        assert (await _asking(encoding)).tokens == 1
    encoding.stop()


async def _until(encoding: Encoding, state: str) -> None:
    async with asyncio.timeout(20):
        while encoding.status().state != state:
            await asyncio.sleep(0)


async def test_an_encoder_whose_memory_did_not_come_back_is_not_the_last_to_be_let_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoders, given_back = [FakeEncoder(), FakeEncoder()], asyncio.Event()
    outcomes: list[Exception | None] = [RuntimeError("CUDA error: an illegal address"), None]

    async def give_back() -> None:
        if (failure := outcomes.pop(0)) is not None:
            raise failure
        given_back.set()

    encoding = Encoding(_loading(*encoders), limit=9, give_back=give_back)
    encoding.unload_after(0)
    for encoder in encoders:
        encoder.gate.set()
        assert (await _asking(encoding)).tokens == 1
        await _until(encoding, "not loaded")
    async with asyncio.timeout(20):
        await given_back.wait()
    assert [one.stopped for one in encoders] == [True, True]
    (told,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert told.exc_info is not None
    encoding.stop()


async def test_an_encoder_that_still_computes_while_it_is_let_go_is_seen_at_the_end() -> None:
    class Busy(FakeEncoder):
        """Computes for a client that has gone away."""

        computes = True

        def join(self, seconds: float) -> bool:
            return not self.computes

    encoder = Busy()
    encoding = Encoding(_loading(encoder), limit=9)
    asking = _asking(encoding)
    await _until(encoding, "ready")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    encoding.unload_after(0)
    await _until(encoding, "not loaded")
    encoding.stop()
    await asyncio.sleep(0)  # what watches is told now
    assert encoding.has_threads()
    encoder.computes = False
    assert not encoding.has_threads()


@pytest.mark.parametrize("is_loaded", [True, False])
async def test_the_end(is_loaded: bool) -> None:
    encoder, never = FakeEncoder(), asyncio.Event()

    async def load() -> FakeEncoder:
        if not is_loaded:
            await never.wait()
        return encoder

    encoding = Encoding(load, limit=9)
    asking, cancelled = _asking(encoding), _asking(encoding)
    for _ in range(5):
        await asyncio.sleep(0)
    cancelled.cancel()
    encoding.stop()
    encoding.stop()
    with pytest.raises(ShuttingDown):
        await asking
    with pytest.raises(asyncio.CancelledError):  # by others
        await cancelled
    with pytest.raises(ShuttingDown):
        await _asking(encoding)
    assert not encoding.has_threads()
    assert encoder.stopped is is_loaded
    never.set()
