"""The encoder of this process: loaded when wanted, asked by so many at a time, let go if idle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from llm_offline.errors import (
    EncoderUnavailable,
    LLMOfflineError,
    QueueFull,
    ShuttingDown,
    StartError,
)
from llm_offline.lazy import Lazy

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK = 0.05
"""Seconds between two looks at whether an encoder's threads have ended."""

State = Literal["not loaded", "loading", "ready", "failed"]
"""`not loaded`: nobody has asked, or not for long; `failed`: the next request tries again."""


class Embeddings(Protocol):
    """Vectors of some texts; `embedding.Embeddings` is one."""

    @property
    def vectors(self) -> Sequence[bytes]:
        """One a text in its order: 32-bit floats, little-endian."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        ...


class Encoder(Protocol):
    """Turns texts into vectors; `embedding.SentenceEncoder` is one."""

    name: str
    device: str
    dimensions: int
    max_input_tokens: int | None
    """Of one text, without what the model adds to it; None where a text may have any length."""

    async def encode(self, texts: Sequence[str]) -> Embeddings:
        """Vectors; raises `BadRequest` for a text that is too long, `OutOfMemory`."""
        ...

    def stop(self) -> None:
        """Begin nothing any more."""
        ...

    def join(self, seconds: float) -> bool:
        """After `stop`: whether its threads have ended within so many seconds."""
        ...


@dataclass(frozen=True, slots=True)
class EncodingStatus:
    """The encoder at this moment.

    Attributes:
        state: See `State`.
        device: Where it computes; None until it is loaded.
        reason: Why it could not be loaded.
        waiting: Requests that have no answer yet.
        limit: So many may there be.
        asked: Requests since the start.
        answered: Those of them that got vectors.
    """

    state: State
    device: str | None
    reason: str | None
    waiting: int
    limit: int
    asked: int
    answered: int


class Encoding:
    """Lets requests to the encoder, and ends them."""

    def __init__(
        self,
        load: Callable[[], Awaitable[Encoder]],
        limit: int,
        give_back: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """What lets requests in.

        Args:
            load: Makes the encoder.
            limit: Requests at a time; they take turns, a slice of texts each.
            give_back: Gives the system the memory of an encoder that nobody uses any more.
        """
        self._load = load
        self._give_back = give_back
        self._encoder = Lazy(self._make)
        self._limit = limit
        self._under_way: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()  # by `stop`
        self._asked = 0
        self._answered = 0
        self._stopped = False
        self._used = time.monotonic()
        self._watching: asyncio.Task[None] | None = None
        self._leaving: list[Encoder] = []  # let go, and their threads have not ended yet

    def unload_after(self, seconds: float) -> None:
        """From now on, let the encoder go once nobody has asked for so long."""
        self._watching = asyncio.create_task(self._watch(seconds))

    async def use(self, work: Callable[[Encoder], Coroutine[Any, Any, T]]) -> T:
        """What `work` makes of the encoder, once that is loaded; in a task of the caller's own.

        Raises:
            QueueFull: As many requests as may be are under way.
            EncoderUnavailable: It cannot be loaded; the next request tries again.
            OutOfMemory: There was no memory to load it, or to compute.
            ShuttingDown: The server is.
        """
        if self._stopped:
            raise ShuttingDown("the server is shutting down")
        if len(self._under_way) >= self._limit:
            raise QueueFull(
                f"{self._limit} requests for embeddings are under way and no more may be "
                "(--max-batch, --max-queue): try again later"
            )
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a coroutine runs in a task")
        self._asked += 1
        self._under_way.add(task)
        try:
            found = await work(await self._loaded())
        except asyncio.CancelledError:
            if task in self._ended and task.uncancel() == 0:  # nobody but `stop` cancelled it
                raise ShuttingDown("the server is shutting down") from None
            raise
        finally:
            self._under_way.discard(task)
            self._used = time.monotonic()
        self._answered += 1
        return found

    def status(self) -> EncodingStatus:
        """For `/health` and `/metrics`."""
        encoder, coming = self._encoder.value, self._encoder.is_coming
        failure = None if encoder or coming else self._encoder.failure
        state: State = "ready" if encoder else "loading" if coming else "not loaded"
        return EncodingStatus(
            state="failed" if failure else state,
            device=encoder.device if encoder else None,
            reason=failure,
            waiting=len(self._under_way),
            limit=self._limit,
            asked=self._asked,
            answered=self._answered,
        )

    def stop(self) -> None:
        """Refuse new requests, end the others with an error."""
        if self._stopped:
            return
        self._stopped = True
        if self._watching is not None:
            self._watching.cancel()
        self._ended = set(self._under_way)
        for task in self._ended:
            task.cancel()
        if self._encoder.value is not None:
            self._encoder.value.stop()

    def has_threads(self) -> bool:
        """Whether, after `stop`, a thread still computes vectors."""
        here = [] if self._encoder.value is None else [self._encoder.value]
        return any(not encoder.join(1.0) for encoder in [*here, *self._leaving])

    async def _make(self) -> Encoder:
        log.info("loading the encoder for /v1/embeddings")
        try:
            found = await self._load()
        except LLMOfflineError as error:
            log.error("the encoder was not loaded: %s", error)
            raise
        log.info("encoder ready: %s on %s", found.name, found.device)
        return found

    async def _watch(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(min(seconds / 4, 30))
            if self._under_way or time.monotonic() - self._used < seconds:
                continue
            try:
                await self._unload()
            except Exception:
                # Whatever a driver makes of it: the next encoder is let go all the same.
                log.exception("unloading the encoder failed; the next one is unloaded all the same")

    async def _unload(self) -> None:
        encoder = self._encoder.forget()
        if encoder is None:
            return
        name = encoder.name
        self._leaving.append(encoder)  # the server may end before its threads have
        encoder.stop()
        while not encoder.join(0):  # noqa: ASYNC110 - its threads tell nobody
            await asyncio.sleep(_LOOK)
        self._leaving.remove(encoder)
        del encoder  # what its threads have of it is gone too
        if self._give_back is not None:
            await self._give_back()
        log.info("the encoder %s was unloaded: nobody asked for a while", name)

    async def _loaded(self) -> Encoder:
        try:
            return await self._encoder.get()
        except StartError as error:
            told = str(error)
        raise EncoderUnavailable(told)
