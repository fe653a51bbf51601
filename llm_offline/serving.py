"""Which model serves: loading, replacing and unloading it, and who waits meanwhile.

One model at a time. A new one is loaded beside the old one where both have room, and in its place
otherwise. Everything but the loading itself is on the event loop, and one change at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from llm_offline.errors import (
    Conflict,
    Loading,
    QueueFull,
    ShuttingDown,
    StartError,
    Unloaded,
)
from llm_offline.fitting import Need
from llm_offline.loaded import Loader
from llm_offline.progress import Progress
from llm_offline.residents import Residents
from llm_offline.running import Ready, name_of
from llm_offline.settings import Settings, changed

log = logging.getLogger(__name__)

T = TypeVar("T")

NARRATION = 5.0
"""Seconds between two lines about the loading."""

State = Literal["loading", "ready", "idle", "unloaded"]
"""`idle`: unloaded because nobody asked; the next request loads it again."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a load did.

    Attributes:
        model: The name of the model that serves now.
        replaced: Of the one before, if there was one.
        beside: Whether both were in memory for a while, so that nobody had to wait.
        seconds: How long it took.
    """

    model: str
    replaced: str | None
    beside: bool
    seconds: float


class Serving:
    """Holds the model of this process."""

    def __init__(self, settings: Settings, loader: Loader) -> None:
        self.settings = settings
        """Those of the start; a model's own are `Ready.settings`."""
        self.state: State = "loading"
        self.progress = Progress()
        """Of the change that is under way, or was the last."""
        self.failure: StartError | None = None
        """Why the first load failed."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called on the event loop when the first load failed."""
        self.context = 0
        """Of the model that served last, in tokens."""
        self.started_at = int(time.time())
        """Unix time of the start."""
        self._models = Residents(loader)
        self._wish = settings  # of the model that serves, or served last
        self._change: asyncio.Task[Any] | None = None
        self._coming: Settings | None = None
        self._settled = asyncio.Event()
        self._trouble: StartError | None = None
        self._waiting = 0
        self.stopped = False
        """Whether the server was told to end."""
        self._tasks: set[asyncio.Task[None]] = set()

    # What requests see

    @property
    def model_name(self) -> str:
        """The model that serves, or that comes."""
        return self._ready.name if self._ready else name_of(self._coming or self._wish)

    @property
    def here(self) -> Ready | None:
        """The model that serves, if one does."""
        return None if self.stopped else self._ready

    @property
    def coming(self) -> str | None:
        """The model that is being loaded, if one is."""
        return name_of(self._coming) if self._coming and self._changing else None

    def base(self, model: str | None) -> Settings:
        """What a load of `model` begins with: the server's settings, whatever was loaded before.

        None is the model that served last, as it was loaded.
        """
        if model is None:
            return self._wish
        if model in (self.settings.model, name_of(self.settings)):
            return self.settings
        if model == name_of(self._wish):
            model = self._wish.model
        # These belong to the model of the start.
        return changed(self.settings, {"model": model, "revision": None, "chat_template": None})

    def ready(self) -> Ready:
        """The model and its engine.

        Raises:
            Loading: It is not there yet.
            Unloaded: There is none.
            ShuttingDown: It is not there any more.
        """
        if self.stopped:
            raise ShuttingDown("the server is shutting down")
        if self._ready is not None:
            return self._ready
        if self.state == "loading":
            raise Loading(f"{self.model_name} is still loading: {self.progress.stage}")
        if self._trouble is not None:
            raise Unloaded(f"no model serves: {self._trouble}")
        raise Unloaded(
            f"{self.model_name} was unloaded and no model serves: POST /v1/models/load gets one"
        )

    async def wait(self, seconds: float) -> None:
        """Until a model serves, none is to be expected, or `seconds` are over; `ready` says which.

        One that was unloaded because nobody asked is loaded again.

        Raises:
            QueueFull: As many wait as may.
        """
        most = self.settings.max_batch + self.settings.max_queue
        if self._waiting >= most:
            raise QueueFull(
                f"{self._waiting} requests wait for {self.model_name}, which is being loaded, and "
                "no more may (--max-batch, --max-queue): try again later"
            )
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds):
                if self.state == "idle":
                    await self._come_back()
                await self._settled.wait()
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    # The process's life

    def start(self) -> None:
        """Begin to load the model of the settings."""
        self._keep(self._first())
        if self.settings.idle_unload is not None:
            self._keep(self._watch(self.settings.idle_unload))

    def stop(self) -> None:
        """Refuse new requests, end the others with an error."""
        self.stopped = True
        self._settled.set()
        for task in [*self._tasks, self._change]:
            if task is not None:
                task.cancel()
        self._models.stop()

    def has_threads(self) -> bool:
        """Whether, after `stop`, a thread is still in a step or in the loading."""
        return self._models.has_threads()

    # Changes

    def load(self, wish: Settings) -> asyncio.Task[Change]:
        """Begin to load a model; it replaces the one that serves. Its end raises `StartError`.

        A load that fails leaves the old model serving, or brings it back. One that is under way
        with the same wish is joined. It goes on when nobody waits for it.

        Raises:
            Conflict: Another change is under way.
            ShuttingDown: The server is.
        """
        if self._changing and self._coming == wish:
            return self._change  # type: ignore[return-value]  # nothing comes in other changes
        self._refuse_another()
        return self._reloaded(wish)

    async def unload(self, *, idle: bool = False) -> str | None:
        """Let the model finish what it has and give its memory back; its name.

        Args:
            idle: The next request loads it again.

        Raises:
            Conflict, ShuttingDown: See `load`.
        """
        self._refuse_another()
        self._trouble = None
        name = self._ready.name if self._ready else None
        self._models.serving = self._coming = None
        self._set("idle" if idle else "unloaded")
        self._change = asyncio.create_task(self._models.retire())
        await asyncio.shield(self._change)
        if name is not None:
            log.info("%s was unloaded%s", name, ": nobody asked for a while" if idle else "")
        return name

    def try_out(
        self, wish: Settings, use: Callable[[Ready, Need], Awaitable[T]]
    ) -> asyncio.Task[T]:
        """Load a model beside the one that serves, if there is room, use it, and unload it.

        What `use` returns must not hold the model. The task raises `StartError` as `load` does.

        Raises:
            Conflict, ShuttingDown: See `load`.
        """
        self._refuse_another()
        self.progress, self._coming = Progress(), None
        task = asyncio.create_task(self._models.trial(wish, self.progress, use))
        self._change = task
        return task

    @property
    def _ready(self) -> Ready | None:
        return self._models.serving

    @property
    def _changing(self) -> bool:
        return self._change is not None and not self._change.done()

    def _refuse_another(self) -> None:
        if self.stopped:
            raise ShuttingDown("the server is shutting down")
        if self._changing:
            what = self.coming or "another model"
            raise Conflict(
                f"{what} is being loaded, tried or unloaded ({self.progress.stage}): wait for that"
            )

    def _begin(self, wish: Settings) -> asyncio.Task[Change]:
        self.progress, self._coming, self._trouble = Progress(), wish, None
        before = self.state
        if self._ready is None:
            self._set("loading")
        task = asyncio.create_task(self._replace(wish, before))
        self._change = task
        self._keep(self._narrate(task, name_of(wish)))
        return task

    def _reloaded(self, wish: Settings) -> asyncio.Task[Change]:
        """As `_begin`, with a line in the log about a failure; the first load's ends the server."""
        task = self._begin(wish)
        task.add_done_callback(partial(_tell, name_of(wish)))
        return task

    async def _replace(self, wish: Settings, before: State) -> Change:
        began = time.monotonic()
        replaced = self._ready.name if self._ready else None
        try:
            beside = await self._models.has_room(wish, self.progress)
            if beside or self._ready is None:
                await self._serve(wish)
                if replaced:
                    self.progress.enter(f"serving; waiting for the last requests of {replaced}")
                await self._models.retire()
            else:
                await self._swap(wish, self._ready.settings)
        except StartError as error:
            if self._ready is None:
                self._trouble = error
                self._set("idle" if before == "idle" else "unloaded")
            raise
        finally:
            self._coming = None
        seconds = time.monotonic() - began
        return Change(name_of(wish), replaced, beside and replaced is not None, seconds)

    async def _swap(self, wish: Settings, before: Settings) -> None:
        """Replace the model, which has the settings `before`, where both have no room."""
        name = name_of(before)
        self.progress.enter(f"waiting for the last requests of {name}")
        self._models.serving = None
        self._set("loading")
        await self._models.retire()
        try:
            await self._serve(wish)
        except StartError as error:
            told, param = str(error), error.param
        else:
            return
        self.progress.enter(f"bringing {name} back")
        try:
            await self._serve(before)
        except StartError as error:
            raise StartError(f"{told}; and {name} could not be brought back: {error}") from None
        raise StartError(f"{told}; {name} serves again", param=param)

    async def _serve(self, wish: Settings) -> None:
        """Load a model, which then serves; raises `StartError`."""
        now = await self._models.put(wish, self.progress)
        self._wish, self.context = wish, now.model.context
        self._set("ready")
        log.info("ready: %s\n%s", now.name, "\n".join(f"    {r}" for r in now.model.remarks))

    async def _come_back(self) -> None:
        while self._change is not None and self._changing and self.state == "idle":
            await asyncio.wait({self._change})
        if self.state == "idle" and not self.stopped:
            self._reloaded(self._wish)

    def _set(self, state: State) -> None:
        self.state = state
        if state == "loading":
            self._settled.clear()
        else:
            self._settled.set()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _first(self) -> None:
        try:
            await self._begin(self.settings)
        except StartError as error:
            self.failure = error
            self.on_failure()

    async def _narrate(self, task: asyncio.Task[Change], name: str) -> None:
        """Tell the log how far the loading is: a silent minute looks like a dead server."""
        told = ""
        while not task.done():
            stage = str(self.progress.stage)
            if stage != told:
                log.info("loading %s: %s", name, stage)
                told = stage
            await asyncio.wait({task}, timeout=NARRATION)

    async def _watch(self, seconds: float) -> None:
        """Unload the model when nobody has asked for `seconds`."""
        while True:
            await asyncio.sleep(min(seconds / 4, 30))
            if self._ready is None or self._changing:
                continue
            if self._ready.busy:
                self._ready.used = time.monotonic()
            if time.monotonic() - self._ready.used >= seconds:
                await self.unload(idle=True)


def _tell(name: str, task: asyncio.Task[Change]) -> None:
    """Take a failure, so that asyncio does not report it too."""
    if not task.cancelled() and isinstance(error := task.exception(), StartError):
        log.error("%s was not loaded: %s", name, error)
