"""A model behind its engine: in use, finishing what it has begun, ended."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.interface import Engine
from llm_offline.gauging import Gauge
from llm_offline.loaded import LoadedModel
from llm_offline.settings import Settings
from llm_offline.threads import Threads

_LOOK = 0.05
"""Seconds between two looks at whether an engine still has work."""


def name_of(settings: Settings) -> str:
    """What `/v1/models` calls a model: the hub's id, or the folder's name."""
    try:
        folder = Path(settings.model).expanduser()
        # Of a folder that was removed while its model served, too.
        is_folder = folder.is_absolute() or folder.is_dir()
        return folder.resolve().name if is_folder else settings.model
    except (OSError, RuntimeError, ValueError):  # too long, no such user's, with a NUL
        return settings.model


@dataclass(slots=True, eq=False)
class Ready:
    """A model and the engine that runs it.

    Attributes:
        name: See `name_of`.
        settings: What it was loaded with.
        model: The weights, and what belongs to them.
        engine: Takes requests.
        gauge: Looks at the memory.
        entering: Requests that have this model and may not have reached its engine yet.
        used: When a request last had it (`time.monotonic`).
    """

    name: str
    settings: Settings
    model: LoadedModel
    engine: Engine
    gauge: Gauge
    entering: int = 0
    used: float = field(default_factory=time.monotonic)

    @property
    def busy(self) -> bool:
        """Whether a request runs, waits, or is on its way here."""
        status = self.engine.status()
        return self.entering + status.running + status.waiting > 0

    @property
    def requests(self) -> int:
        """Requests that run or wait."""
        status = self.engine.status()
        return status.running + status.waiting

    @contextmanager
    def held(self) -> Iterator[None]:
        """While this lasts, the engine is not ended."""
        self.entering += 1
        try:
            yield
        finally:
            self.entering -= 1
            self.used = time.monotonic()

    async def memory(self) -> dict[str, int]:
        """Of the device, in bytes; see `Gauge.read`."""
        return await self.gauge.read(self.model.network)

    async def end(self, threads: Threads) -> None:
        """Let it finish what it has, then end its engine. Nobody may be sent here any more."""
        while self.busy:  # noqa: ASYNC110 - the engine's thread tells nobody
            await asyncio.sleep(_LOOK)
        self.engine.stop()
        await threads.run("ending", functools.partial(self.engine.join, 3600.0))


def run(settings: Settings, model: LoadedModel, gauge: Gauge) -> Ready:
    """Start an engine for a model."""
    engine = ContinuousBatching(
        model.network,
        model.text.decode,
        context=model.context,
        max_queue=settings.max_queue,
        max_batch=settings.max_batch,
    )
    return Ready(name_of(settings), settings, model, engine, gauge)
