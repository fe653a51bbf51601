"""A loader for coroutines: each of its works in a thread of its own, each failure one sentence."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TypeVar

from llm_offline.errors import StartError, first_line
from llm_offline.fitting import Need
from llm_offline.loaded import LoadedModel, Loader
from llm_offline.missing import sentence
from llm_offline.progress import Progress
from llm_offline.settings import Settings
from llm_offline.threads import Threads

log = logging.getLogger(__name__)

T = TypeVar("T")


class OffLoop:
    """See `loaded.Loader`; every failure is a `StartError`."""

    def __init__(self, loader: Loader, threads: Threads) -> None:
        self._loader = loader
        self._threads = threads

    async def weigh(self, wish: Settings, progress: Progress) -> Need:
        """See `Loader.weigh`."""
        work = functools.partial(_plainly, self._loader.weigh, wish, progress)
        return await self._threads.run("weighing", work)

    async def load(self, wish: Settings, progress: Progress) -> LoadedModel:
        """See `Loader.load`."""
        work = functools.partial(_plainly, self._loader.load, wish, progress)
        return await self._threads.run("loading", work)

    async def give_back(self) -> None:
        """See `Loader.give_back`."""
        await self._threads.run("giving memory back", self._loader.give_back)


def _plainly(work: Callable[[Settings, Progress], T], wish: Settings, progress: Progress) -> T:
    """`work`, its failure told in one sentence that holds nothing.

    A traceback refers to all that was made before the failure: a whole model, perhaps.
    """
    try:
        return work(wish, progress)
    except StartError as error:
        failure = StartError(str(error), param=error.param)
    except Exception as error:
        # Whatever a library raises on a strange model: the operator gets one sentence.
        log.debug("loading failed", exc_info=True)
        lacking = sentence(error) if isinstance(error, ImportError) else None
        reason = f"{type(error).__name__}: {first_line(error, 'no reason given')}"
        failure = StartError(lacking or f"{wish.model} cannot be loaded: {reason}")
    raise failure
