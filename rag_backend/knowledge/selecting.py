"""Which files a search may look into: attribute filters, answered from memory."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from rag_backend.knowledge import filters as attribute_filters
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.models import SearchableFile, Store, chunk_id

T = TypeVar("T")

_STORES = 4
"""Stores whose files are kept in memory, about 3 MB for 10,000 files with equal attributes."""
_SELECTIONS = 32
"""Filters whose files are kept."""


class Selection:
    """The files that a filter lets through, at one revision of a store.

    Attributes:
        versions: {file id: what changes when the file is indexed anew}.
        share: The part of the store's files that they are, in 0..1.
    """

    def __init__(
        self,
        files: Sequence[SearchableFile],
        of: int,
        count: Callable[[Sequence[str]], Mapping[str, int]],
    ) -> None:
        self.versions = {file.file_id: file.version for file in files}
        self.share = len(files) / of if of else 0.0
        self._count = count

    def __contains__(self, chunk: str) -> bool:
        """Whether a chunk, by its id, belongs to one of the files."""
        return chunk.rpartition(":")[0] in self.versions

    def __len__(self) -> int:
        """Number of files."""
        return len(self.versions)

    @cached_property
    def chunks(self) -> Mapping[str, Sequence[str]]:
        """{file id: its chunks' ids}; asks the catalog, the first time. Synchronous."""
        counts = self._count(list(self.versions))
        return {
            file_id: [chunk_id(file_id, n) for n in range(counts[file_id])]
            for file_id in self.versions
            if file_id in counts
        }

    @cached_property
    def size(self) -> int:
        """Number of chunks; asks the catalog, the first time. Synchronous."""
        return sum(map(len, self.chunks.values()))


class Selector:
    """Answers filters; what it remembers is of one revision of a store, so it is never outdated.

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
        # One store takes one place: its earlier revisions make room.
        wanted = json.dumps(filters, sort_keys=True)
        return self._selections.get(
            (store.id, wanted), store.revision, lambda: self._selected(store, filters)
        )

    def _selected(self, store: Store, filters: Mapping[str, Any]) -> Selection:
        files = self._files.get(
            (store.id,), store.revision, lambda: self._catalog.searchable_files(store.id)
        )
        passing: dict[int, bool] = {}  # files with equal attributes share one mapping
        for file in files:
            if id(file.attributes) not in passing:
                passing[id(file.attributes)] = attribute_filters.matches(filters, file.attributes)
        return Selection(
            [file for file in files if passing[id(file.attributes)]],
            len(files),
            lambda file_ids: self._catalog.chunk_counts(store.id, file_ids),
        )


class _Recent(Generic[T]):
    """The last few values asked for, each of one revision."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, ...], tuple[int, T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...], revision: int, make: Callable[[], T]) -> T:
        """The value of this revision; made, outside the lock, when another or none is kept."""
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
