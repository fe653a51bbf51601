"""Collections whose derived data may have been lost while the backend ran.

Whoever meets something odd names it here and goes on; `healing` looks at it, and restores it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping


class Suspects:
    """Names of collections. Safe to use from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, bool] = {}

    def add(self, collection: str, certain: bool = True) -> None:
        """Something of it was not where it should be.

        Args:
            certain: It was there before, or cannot be read; else perhaps it never was.
        """
        with self._lock:
            self._names[collection] = certain or self._names.get(collection, False)

    def take(self) -> Mapping[str, bool]:
        """{collection: whether it is certain}; they are suspects no more."""
        with self._lock:
            found, self._names = self._names, {}
        return found

    def __contains__(self, collection: str) -> bool:
        return self._names.get(collection, False)
