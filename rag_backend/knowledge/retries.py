"""Files that are tried again after a while: what stopped them may have nothing to do with them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from rag_backend.knowledge.jobs import Key

TRIES = 3
"""How often a file is begun that a defect stops, until it fails for it."""


class Retries:
    """What waits for another try. For the event loop."""

    def __init__(self, submit: Callable[[Key], None]) -> None:
        """`submit` begins with a file again."""
        self._submit = submit
        self._waiting = 0
        self._defects: Counter[Key] = Counter()

    def later(self, key: Key, seconds: float) -> None:
        """Begin with the file again after so long."""
        self._waiting += 1
        asyncio.get_running_loop().call_later(seconds, self._now, key)

    def stopped_by_defect(self, key: Key) -> bool:
        """A defect has stopped the file once more: whether it is worth another try."""
        self._defects[key] += 1
        if self._defects[key] < TRIES:
            return True
        self.forget(key)
        return False

    def forget(self, key: Key) -> None:
        """The file has come to its end: what stopped it before counts no longer."""
        self._defects.pop(key, None)

    def __len__(self) -> int:
        return self._waiting

    def _now(self, key: Key) -> None:
        self._waiting -= 1
        self._submit(key)
