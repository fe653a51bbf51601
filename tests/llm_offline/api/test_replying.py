"""Several texts of one reply: what one meets, all learn of."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from llm_offline.api.replying import Head, reply, stream
from llm_offline.engine.interface import TextDelta
from llm_offline.errors import ClientGone, GenerationFailed, LLMOfflineError, OutOfMemory

HEAD = Head("id", "object", 0, "model")


class Told:
    """A generation that says what it is told to."""

    prompt_tokens = 3

    def __init__(self) -> None:
        self.news: asyncio.Queue[TextDelta | LLMOfflineError] = asyncio.Queue()
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        told = await self.news.get()
        if isinstance(told, LLMOfflineError):
            raise told
        return told

    async def aclose(self, *, is_whole: bool = False) -> None:
        self.is_closed = True


class Asking:
    """A request whose client goes away when it is told to."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


@asynccontextmanager
async def _nothing_is_left() -> Any:
    """No task is left behind, and no exception that nobody has fetched."""
    loop, complaints = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(30):
        while asyncio.all_tasks() != before:
            await asyncio.sleep(0)
    gc.collect()
    loop.set_exception_handler(None)
    assert complaints == []


def _plain(texts: Sequence[Told], asking: Asking) -> Any:
    return reply(asking, texts, lambda wholes, _: {"n": len(wholes)})  # type: ignore[arg-type]


async def _streamed(texts: Sequence[Told], asking: Asking) -> list[Any]:
    """What reaches the client, as JSON."""
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    choice: Callable[[int, TextDelta], Any] = lambda number, delta: {"text": delta.text}  # noqa: E731
    events = stream(texts, HEAD, choice, opening=None, include_usage=False)
    await events({"type": "http", "asgi": {"spec_version": "2.3"}}, asking.receive, send)  # type: ignore[arg-type]
    lines = b"".join(sent).decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


@pytest.mark.parametrize("failing", [(1,), (0, 1, 2)])
async def test_one_that_fails_frees_all(failing: Sequence[int]) -> None:
    async with _nothing_is_left():
        texts = [Told() for _ in range(3)]
        answering = asyncio.ensure_future(_plain(texts, Asking()))
        await asyncio.sleep(0)
        for number in failing:
            texts[number].news.put_nowait(OutOfMemory("no memory is left"))
        with pytest.raises(OutOfMemory):
            await answering
        assert all(text.is_closed for text in texts)
        del answering


async def test_one_that_fails_ends_the_stream_with_its_error() -> None:
    async with _nothing_is_left():
        texts = [Told() for _ in range(3)]
        texts[2].news.put_nowait(TextDelta("so far", 1))
        sending = asyncio.ensure_future(_streamed(texts, Asking()))
        texts[2].news.put_nowait(GenerationFailed("the model failed"))
        texts[0].news.put_nowait(GenerationFailed("the model failed"))
        events = await sending
        assert events[-1]["error"]["code"] == "generation_failed"
        assert all(text.is_closed for text in texts)


@pytest.mark.parametrize("answer", [_plain, _streamed])
async def test_a_client_that_goes_away_frees_all(answer: Any) -> None:
    async with _nothing_is_left():
        texts, asking = [Told() for _ in range(3)], Asking()
        texts[1].news.put_nowait(TextDelta("so far", 1))
        answering = asyncio.ensure_future(answer(texts, asking))
        while not texts[1].news.empty():
            await asyncio.sleep(0)
        asking.gone.set()
        with nullcontext() if answer is _streamed else pytest.raises(ClientGone):
            await answering
        del answering
        assert all(text.is_closed for text in texts)
