"""Attribute filters answered from memory: which files a search may look into."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.filters import Selection, matches
from rag_backend.knowledge.models import SearchableFile, Store

T = TypeVar("T")

_STORES = 4
"""Stores whose files are kept in memory: less than 1 KB a file with the usual attributes."""
_SELECTIONS = 16
"""Filters whose files are kept: about 100 bytes for each file that passes."""


class Selector:
    """Answers filters. What it remembers is of one revision of a store, so it is never outdated.

    Synchronous; safe to call from several threads.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._files: _Recent[list[SearchableFile]] = _Recent(_STORES)
        self._selections: _Recent[Selection] = _Recent(_SELECTIONS)

    def select(self, store: Store, filters: Mapping[str, Any]) -> Selection:
        """The completed files of the store that pass a filter which `filters.check` accepted.

        Args:
            store: As the catalog has it now: its revision says whether memory can answer.
        """
        asked = json.dumps(filters, sort_keys=True)
        return self._selections.get(
            (store.id, asked), store.revision, lambda: self._selected(store, filters)
        )

    def _selected(self, store: Store, filters: Mapping[str, Any]) -> Selection:
        files = self._files.get(
            (store.id,), store.revision, lambda: self._catalog.searchable_files(store.id)
        )
        passing = [file for file in files if matches(filters, file.attributes)]
        return Selection(
            passing,
            len(passing) / max(1, len(files)),
            lambda file_ids: self._catalog.chunks_of(store.id, file_ids),
        )


class _Recent(Generic[T]):
    """The last few values asked for, each of one revision."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, ...], tuple[int, T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...], revision: int, make: Callable[[], T]) -> T:
        """The value of this revision; made, outside the lock, when none of it is kept."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[0] == revision:
                self._kept.move_to_end(key)
                return kept[1]
        made = make()
        with self._lock:
            self._kept[key] = (revision, made)
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made
