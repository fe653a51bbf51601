"""Threads that compute beside the engine without getting in its way.

Each computes alone: torch gives every thread that asks helpers of its own, and with more threads
than cores all of them wait for each other at every layer. And each has a lower priority than the
engine's thread, so that what is embedded by the thousand costs those who wait for words little.
"""

from __future__ import annotations

import asyncio
import copy
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from llm_offline.pool import Pool

T = TypeVar("T")
R = TypeVar("R")

_NICE = 10
"""Added to the process's own; the engine's thread then has nine times as much of a full core."""


class Workers:
    """Each thread has the encoder for itself: one set of weights, a tokenizer a thread."""

    def __init__(self, model: Any, device: str) -> None:
        """As many threads as torch would use on a CPU, one on a GPU."""
        self._model = model
        self._beside = device == "cpu"
        self._own = threading.local()
        self._copying = threading.Lock()
        self.count = torch.get_num_threads() if self._beside else 1
        self._pool = Pool(self.count, "encoder")

    async def map(self, work: Callable[[Any, T], R], items: Sequence[T]) -> list[R]:
        """`work(model, item)` of each, in order; raises what the first failure raised.

        Several callers take turns: each has as many items at a time in the threads' queue as there
        are threads. What has not begun when a caller is cancelled, or an item fails, never begins.

        Raises:
            ShuttingDown: `stop` was called.
        """
        slots = asyncio.Semaphore(self.count)

        async def one(item: T) -> R:
            async with slots:
                return await self._pool.run(self._apply, work, item)

        running = [asyncio.ensure_future(one(item)) for item in items]
        try:
            return await asyncio.gather(*running)
        finally:
            for each in running:
                each.cancel()

    def stop(self) -> None:
        """Begin nothing any more."""
        self._pool.stop()

    def join(self, seconds: float) -> bool:
        """After `stop`: whether all threads have ended within so many seconds."""
        return self._pool.join(seconds)

    def _apply(self, work: Callable[[Any, T], R], item: T) -> R:
        # Not where the thread begins: a failure there would break the whole pool for good.
        if not hasattr(self._own, "model"):
            with self._copying:
                shared = [*self._model.parameters(), *self._model.buffers()]
                found = copy.deepcopy(self._model, {id(part): part for part in shared})
                if self._beside:
                    self._step_back()
            self._own.model = found
        return work(self._own.model, item)

    def _step_back(self) -> None:
        if sys.platform == "linux":  # elsewhere priorities belong to processes
            thread = threading.get_native_id()
            before = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(19, before + _NICE))
        # The number counts for this thread, and for all that have not begun yet: for those it is
        # put back, by a thread that ends.
        others = torch.get_num_threads()
        torch.set_num_threads(1)
        restoring = threading.Thread(target=torch.set_num_threads, args=(others,))
        restoring.start()
        restoring.join()
