"""Threads that compute beside the engine without getting in its way.

Each computes alone: torch gives every thread that asks helpers of its own, and with more threads
than cores all of them wait for each other at every layer. And each has a lower priority than the
engine's thread, so that what is embedded by the thousand costs those who wait for words little.
"""

from __future__ import annotations

import copy
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

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
        self._pool = ThreadPoolExecutor(self.count, "encoder", self._begin)

    def map(self, work: Callable[[Any, T], R], items: Sequence[T]) -> list[R]:
        """`work(model, item)` of each, in order; raises what the first failure raised."""
        running = [self._pool.submit(lambda one: work(self._own.model, one), one) for one in items]
        try:
            return [one.result() for one in running]
        finally:
            for one in running:
                one.cancel()

    def close(self) -> None:
        """Let the threads go once they have done what they were given."""
        self._pool.shutdown(wait=False)

    def _begin(self) -> None:
        with self._copying:
            if self._beside:
                self._step_back()
            shared = [*self._model.parameters(), *self._model.buffers()]
            self._own.model = copy.deepcopy(self._model, {id(part): part for part in shared})

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
