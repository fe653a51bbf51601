"""How much is done at once: places, and a bounded queue for them, first come, first served.

Middleware in front of what costs something (questions, searches, embeddings; uploads have places
of their own). What costs little, and what the cache answers (`repeating`), never waits here. Bodies
are read only once a place is free, so that those who wait take little memory.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_backend.api.failures import respond
from rag_backend.api.replaying import replayed
from rag_backend.errors import Busy
from rag_backend.notes import notes

_EXPENSIVE = re.compile(
    r"/v1/(?:chat/completions|completions|responses|embeddings|vector_stores/[^/]+/search)/?"
)
_UPLOAD = re.compile(r"/v1/files/?")
_HELD = 256 * 1024
"""Bytes of a waiting request's body that are taken, so that its client's leaving is noticed."""
_WEIGHT = 0.1
"""Of the latest duration in the mean that the wait is estimated from."""
_LONGEST_WAIT = 60


class Places:
    """A fixed number of places and a bounded queue.

    Attributes:
        running: How many places are taken.
        refused: How many requests found the queue full.
    """

    def __init__(
        self, places: int, queue: int, on_refusal: Callable[[], object] = lambda: None
    ) -> None:
        """`on_refusal` is called for each request that finds the queue full."""
        self.running = 0
        self._on_refusal = on_refusal
        self.refused = 0
        self._places = places
        self._most = queue
        self._queue: deque[asyncio.Future[None]] = deque()
        self._seconds = 1.0  # that a place was held, lately

    @property
    def waiting(self) -> int:
        """How many requests are in the queue."""
        return len(self._queue)

    def take(self) -> asyncio.Future[None] | None:
        """A place at once (None), or one in the queue: it is had when the future is done.

        Raises:
            Busy: The queue is full.
        """
        if self.running < self._places:  # then nobody waits
            self.running += 1
            return None
        if len(self._queue) >= self._most:
            self.refused += 1
            self._on_refusal()
            raise self._busy()
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        return turn

    def leave(self, turn: asyncio.Future[None]) -> None:
        """Give up waiting; a place that has come in the same moment goes to the next one."""
        if turn.done():
            self._next()
        else:
            self._queue.remove(turn)

    def give_back(self, seconds: float) -> None:
        """A place is free, after so long."""
        self._seconds += _WEIGHT * (seconds - self._seconds)
        self._next()

    def _next(self) -> None:
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self.running -= 1

    def _busy(self) -> Busy:
        turns = (len(self._queue) + 1) / self._places
        seconds = min(_LONGEST_WAIT, max(1, math.ceil(turns * self._seconds)))
        return Busy(
            f"All {self._places} places are taken and {len(self._queue)} requests wait for one: "
            f"ask again in {seconds} s.",
            retry_after=seconds,
        )


class Admitting:
    """ASGI middleware, inside the guard and the cache's short way."""

    def __init__(self, app: ASGIApp, places: Places, uploads: Places) -> None:
        self._app = app
        self._places = places
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, when there is room for it."""
        places = self._wanted(scope)
        if places is None:
            await self._app(scope, receive, send)
            return
        try:
            turn = places.take()
        except Busy as busy:
            scope["route"] = _Refused(_labelled(scope["path"]))
            await respond(busy)(scope, receive, send)
            return
        if turn is not None:
            asked = time.monotonic()
            receive = replayed(await _waited(places, turn, receive), receive)
            notes().waited = time.monotonic() - asked
        began = time.monotonic()
        try:
            await self._app(scope, receive, send)
        finally:
            places.give_back(time.monotonic() - began)

    def _wanted(self, scope: Scope) -> Places | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        path = scope["path"]
        if _EXPENSIVE.fullmatch(path):
            return self._places
        return self._uploads if _UPLOAD.fullmatch(path) else None


@dataclass(frozen=True, slots=True)
class _Refused:
    """Under whose path a refusal is counted, as a route would be."""

    path: str


def _labelled(path: str) -> str:
    return re.sub(r"(?<=/vector_stores/)[^/]+", "{vector_store_id}", path.rstrip("/"))


async def _waited(places: Places, turn: asyncio.Future[None], receive: Receive) -> list[Message]:
    """What came of the body until it was this request's turn.

    Nothing more is taken once `_HELD` bytes have come: a client that sends more than that and
    leaves is noticed when it has its turn.

    Raises:
        ClientDisconnect: The client has left, and with it the queue.
    """
    try:
        return await _until_turn(turn, receive)
    except BaseException:
        places.leave(turn)
        raise


async def _until_turn(turn: asyncio.Future[None], receive: Receive) -> list[Message]:
    came: list[Message] = []
    held = 0
    listening: asyncio.Future[Message] | None = None
    try:
        while not turn.done():
            if listening is None and held < _HELD:
                listening = asyncio.ensure_future(receive())
            both: list[asyncio.Future[Any]] = [turn, listening] if listening else [turn]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if listening is not None and listening.done():
                message, listening = listening.result(), None
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                came.append(message)
                held += len(message.get("body", b""))
    finally:
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    return came
