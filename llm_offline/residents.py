"""The models in memory: weighed, loaded, tried, run behind their engines, and let go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from llm_offline.errors import LLMOfflineError, ShuttingDown, StartError
from llm_offline.fitting import Held, Need, has_room_beside
from llm_offline.gauging import Gauge
from llm_offline.loaded import Loader
from llm_offline.off_loop import OffLoop
from llm_offline.progress import Progress
from llm_offline.running import Ready, name_of, run
from llm_offline.settings import Settings
from llm_offline.threads import Threads

T = TypeVar("T")

TRIAL_CONTEXT = 1024
"""Tokens of context that a model gets which is only tried."""


class Residents:
    """On the event loop. One model serves, others finish what they have begun or are tried."""

    def __init__(self, loader: Loader) -> None:
        self.serving: Ready | None = None
        """The model that requests get."""
        self.threads = Threads()
        """What runs in them may not end when it is told to."""
        self._loader = OffLoop(loader, self.threads)
        self._gauge = Gauge(self.threads)
        self._living: list[Ready] = []  # engines that have not ended
        self._stopped = False

    async def has_room(self, wish: Settings, progress: Progress) -> bool:
        """Whether a model can be loaded while the one that serves stays.

        Raises:
            StartError: It does not fit even in its place, or is not there.
        """
        need = await self._loader.weigh(wish, progress)
        return has_room_beside(name_of(wish), need, self._held())

    async def put(self, wish: Settings, progress: Progress) -> Ready:
        """Load a model, and let it serve; raises `StartError`."""
        self.serving = await self._add(wish, progress)
        return self.serving

    async def retire(self) -> None:
        """End all engines but the one that serves, and give their memory back."""
        await self._end_others()
        await self._loader.give_back()

    async def trial(
        self, wish: Settings, progress: Progress, use: Callable[[Ready, Need], Awaitable[T]]
    ) -> T:
        """Load a model beside the one that serves, use it, and let it go.

        What `use` returns must not hold the model.

        Raises:
            StartError: It does not load, or there is no room for it.
        """
        # It is tried with little memory; what it would have if it served is in the report.
        small = wish.model_copy(update={"max_batch": 1, "kv_memory": None})
        need = await self._loader.weigh(wish, progress)
        free = need.free_beside(self._held())
        if not (least := replace(need, kv_asked=0)).fits(free):
            old = self.serving.name if self.serving else None
            hint = f"; unload {old} first (POST /v1/models/unload)" if old else ""
            raise StartError(least.refusal(name_of(wish), free, None) + hint)
        context = min(need.context, TRIAL_CONTEXT)
        try:
            tried = small.model_copy(update={"max_context": context})
            return await use(await self._add(tried, progress), need)
        except LLMOfflineError as error:
            # Its traceback would keep the model in memory.
            failure = error.with_traceback(None)
        finally:
            await self.retire()
        raise failure

    def stop(self) -> None:
        """End all requests with an error."""
        self._stopped = True
        for one in self._living:
            one.engine.stop()

    def has_threads(self) -> bool:
        """Whether, after `stop`, a thread is still in a step or in the loading."""
        return not self.threads.join(1.0) or not all(one.engine.join(1.0) for one in self._living)

    async def _add(self, wish: Settings, progress: Progress) -> Ready:
        model = await self._loader.load(wish, progress)
        if self._stopped:
            raise ShuttingDown("the server is shutting down")
        self._living.append(run(wish, model, self._gauge))
        return self._living[-1]

    def _held(self) -> Held | None:
        now = self.serving
        return Held(now.name, now.model.weights_bytes, now.model.kv_bytes) if now else None

    async def _end_others(self) -> None:
        # A function of its own: nothing may refer to an engine any more when it returns.
        while old := next((one for one in self._living if one is not self.serving), None):
            await old.end(self.threads)
            self._living.remove(old)
