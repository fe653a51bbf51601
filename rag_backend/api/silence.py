"""How long a client may keep us waiting, at next to no cost where it does not.

`asyncio.timeout` sets a timer for every message, also for those that can be had or handed over at
once, which are nearly all: four of them cost as much as looking an answer up.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any, TypeVar, cast

from starlette.types import Message, Receive, Send

SILENCE = 60.0
"""Seconds between two parts of a body, and that a client has to take a part of its answer: who is
gone without a word must not hold a place for ever."""

T = TypeVar("T")


async def received(receive: Receive) -> Message:
    """The next message; raises TimeoutError after `SILENCE`."""
    return cast(Message, await _within(SILENCE, receive()))


async def sent(send: Send, message: Message) -> None:
    """Hand a message over; raises TimeoutError where nobody has taken it after `SILENCE`."""
    await _within(SILENCE, send(message))


async def _within(seconds: float, awaitable: Any) -> Any:
    """What is awaited; raises TimeoutError when it takes longer than `seconds`."""
    if not asyncio.iscoroutine(awaitable):
        async with asyncio.timeout(seconds):
            return await awaitable
    try:
        waiting = awaitable.send(None)
    except StopIteration as done:  # it did not have to wait
        return done.value
    async with asyncio.timeout(seconds):
        return await _rest(waiting, awaitable)


@types.coroutine
def _rest(waiting: Any, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """`yield from coroutine`, of one that has begun and waits for `waiting`."""
    while True:
        try:
            step = partial(coroutine.send, (yield waiting))
        except BaseException as error:  # noqa: BLE001 - to be cancelled is the coroutine's business
            step = partial(coroutine.throw, error)
        try:
            waiting = step()
        except StopIteration as done:
            return cast(T, done.value)
