"""Vectors kept in memory, file by file, so that a few files can be searched exactly."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

import numpy as np

from rag_backend.knowledge.embedding import Vectors

_MOST_BYTES = 64 * 2**20
"""43,000 vectors of MiniLM's 384 dimensions, 16,000 of 1,024."""


@dataclass(frozen=True, slots=True)
class FileVectors:
    """A file's chunk ids and their unit vectors, float32 of shape (len(ids), dimension)."""

    version: str
    ids: Sequence[str]
    vectors: Vectors


class KeptVectors:
    """The files' vectors that were used last, up to so many bytes. Safe to use from threads.

    Whoever changes a file's vectors says so afterwards (`forget`); whoever reads them takes the
    `epoch` before, so that what was read before a change is not kept after it.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[str, str], FileVectors] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.epoch = 0

    def get(self, collection: str, versions: Mapping[str, str]) -> dict[str, FileVectors]:
        """Those of the files ({file id: version}) that are kept, by file id."""
        found: dict[str, FileVectors] = {}
        with self._lock:
            for file_id, version in versions.items():
                kept = self._kept.get((collection, file_id))
                if kept is not None and kept.version == version:
                    self._kept.move_to_end((collection, file_id))
                    found[file_id] = kept
        return found

    def clear(self) -> None:
        """All of it may be out of date."""
        with self._lock:
            self.epoch += 1
            self._kept.clear()
            self._bytes = 0

    def put(self, collection: str, files: Mapping[str, FileVectors], epoch: int) -> None:
        """Keep what was read at this epoch; nothing happens when it is over."""
        with self._lock:
            if epoch != self.epoch:
                return
            for file_id, read in files.items():
                self._drop((collection, file_id))
                self._kept[collection, file_id] = read
                self._bytes += read.vectors.nbytes
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._kept)))

    def forget(self, collection: str, file_ids: Iterable[str] | None = None) -> None:
        """The files' vectors have changed, or those of the whole collection."""
        with self._lock:
            self.epoch += 1
            if file_ids is None:
                gone = [key for key in self._kept if key[0] == collection]
            else:
                gone = [(collection, file_id) for file_id in file_ids]
            for key in gone:
                self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        kept = self._kept.pop(key, None)
        self._bytes -= kept.vectors.nbytes if kept else 0


def nearest(files: Iterable[FileVectors], vector: Vectors, k: int) -> list[tuple[str, float]]:
    """(chunk id, cosine) of the k nearest to a vector, nearest first; exact."""
    unit = vector / (np.linalg.norm(vector) or 1.0)
    cosines = ((file.ids, (file.vectors @ unit).tolist()) for file in files if file.ids)
    return nlargest(
        k,
        (pair for ids, values in cosines for pair in zip(ids, values, strict=True)),
        key=lambda pair: pair[1],
    )
