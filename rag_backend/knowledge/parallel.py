"""One encoder on all cores: a batch a core, instead of all cores on one batch after the other.

A small model's layers are over in less time than it takes torch's threads to meet at the end of
each, above all while something else wants a core. Batches that run side by side need not meet.
"""

from __future__ import annotations

import copy
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_NICE = 5
"""What requests need, the encoding of their queries included, goes first."""

T = TypeVar("T")
R = TypeVar("R")


class Replicas:
    """Threads that each have the model for themselves: one set of weights, a tokenizer a thread."""

    def __init__(self, model: SentenceTransformer, threads: int) -> None:
        self._model = model
        self._mine = threading.local()
        self._copying = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, "encoder", self._begin)

    def map(self, action: Callable[[SentenceTransformer, T], R], items: Sequence[T]) -> list[R]:
        """`action(model, item)` of every item, in order; raises what the first failure raised."""
        running = [self._pool.submit(self._run, action, item) for item in items]
        try:
            return [one.result() for one in running]
        finally:
            for one in running:
                one.cancel()

    def _run(self, action: Callable[[SentenceTransformer, T], R], item: T) -> R:
        return action(self._mine.model, item)

    def _begin(self) -> None:
        import torch

        if sys.platform == "linux":  # elsewhere priorities belong to processes
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        with self._copying:
            # OpenMP counts threads for each thread that asks: this one asks for itself alone, and
            # the number that torch gives to threads to come is put back.
            others = torch.get_num_threads()
            torch.set_num_threads(1)
            restored = threading.Thread(target=torch.set_num_threads, args=(others,))
            restored.start()
            restored.join()
            shared = [*self._model.parameters(), *self._model.buffers()]
            # A fast tokenizer must not be shared by threads; weights may.
            self._mine.model = copy.deepcopy(self._model, {id(part): part for part in shared})
