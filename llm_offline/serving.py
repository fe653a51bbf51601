"""The model's life: loading in a thread, then ready behind an engine, then stopped."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.interface import Engine
from llm_offline.errors import Loading, ShuttingDown, StartError
from llm_offline.loaded import LoadedModel
from llm_offline.progress import Progress
from llm_offline.settings import Settings

log = logging.getLogger(__name__)

_T = TypeVar("_T")

NARRATION = 5.0
"""Seconds between two lines about the loading."""

Load = Callable[[Settings, Progress], LoadedModel]
"""Finds and reads a model, telling its progress; raises `StartError`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A model and the engine that runs it."""

    model: LoadedModel
    engine: Engine


class Serving:
    """Holds the one model of this process. Everything but the loading is on the event loop."""

    def __init__(self, settings: Settings, load: Load) -> None:
        self.settings = settings
        self.progress = Progress()
        self.failure: StartError | None = None
        """Why loading failed."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called on the event loop when loading failed."""
        self.started_at = int(time.time())
        """Unix time of the start."""
        self._load = load
        self._ready: Ready | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._narrator: asyncio.Task[None] | None = None

    @property
    def model_name(self) -> str:
        """What `/v1/models` calls the model: the hub's id, or the folder's name."""
        folder = Path(self.settings.model).expanduser()
        return folder.resolve().name if folder.is_dir() else self.settings.model

    def start(self) -> None:
        """Begin to load."""
        loop = asyncio.get_running_loop()
        # A daemon: a load that is stuck in a read must not outlive the server.
        self._thread = threading.Thread(
            target=self._load_in_thread, args=(loop,), name="loading", daemon=True
        )
        self._thread.start()
        self._narrator = loop.create_task(self._narrate())

    async def _narrate(self) -> None:
        """Tell the log how far the loading is: a silent minute looks like a dead server."""
        told = ""
        while self._ready is None and self.failure is None and not self._stopped:
            stage = str(self.progress.stage)
            if stage != told:
                log.info("loading %s: %s", self.model_name, stage)
                told = stage
            await asyncio.sleep(NARRATION)

    def ready(self) -> Ready:
        """The model and its engine.

        Raises:
            Loading: It is not there yet.
            ShuttingDown: It is not there any more.
        """
        if self._stopped:
            raise ShuttingDown("the server is shutting down")
        if self._ready is None:
            raise Loading(f"{self.model_name} is still loading: {self.progress.stage}")
        return self._ready

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self._ready is not None and not self._stopped

    def stop(self) -> None:
        """Refuse new requests, end the others with an error."""
        self._stopped = True
        if self._narrator is not None:
            self._narrator.cancel()
        if self._ready is not None:
            self._ready.engine.stop()

    def has_threads(self) -> bool:
        """Whether, after `stop`, a thread is still in a step or in the loading."""
        loading = self._thread is not None and self._thread.is_alive()
        return loading or (self._ready is not None and not self._ready.engine.join(1.0))

    def _load_in_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            model = self._load(self.settings, self.progress)
        except StartError as error:
            self._tell(loop, self._failed, error)
        except Exception as error:
            # Whatever a library raises on a strange model: the operator gets one sentence.
            log.debug("loading failed", exc_info=True)
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            sentence = f"{self.settings.model} cannot be loaded: {type(error).__name__}: {reason}"
            self._tell(loop, self._failed, StartError(sentence))
        else:
            self._tell(loop, self._loaded, model)

    @staticmethod
    def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[_T], None], argument: _T) -> None:
        try:
            loop.call_soon_threadsafe(what, argument)
        except RuntimeError:  # the loop is closed: the server was stopped meanwhile
            log.debug("loading ended after the server")

    def _failed(self, error: StartError) -> None:
        self.failure = error
        self.on_failure()

    def _loaded(self, model: LoadedModel) -> None:
        if self._stopped:
            return
        engine = ContinuousBatching(
            model.network,
            model.text.decode,
            context=model.context,
            max_queue=self.settings.max_queue,
            max_batch=self.settings.max_batch,
        )
        self._ready = Ready(model, engine)
        log.info("ready: %s; %s", self.model_name, "; ".join(model.remarks))
