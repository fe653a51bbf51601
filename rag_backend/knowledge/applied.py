"""What of a shared catalog a backend's own word index holds: a small SQLite file beside it.

An entry is written after the postings that it stands for, and removed before they change. Whatever
a crash interrupts is therefore missing here, and indexed again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rag_backend.errors import StorageBroken


class Applied:
    """{file id: (sequence, number of chunks)} of each collection. Safe for several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._one_at_a_time = threading.Lock()
        with self._changing() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS applied (collection TEXT, file_id TEXT, "
                "sequence INTEGER, chunks INTEGER, PRIMARY KEY (collection, file_id))"
            )

    def files(self, collection: str) -> dict[str, int]:
        """{file id: sequence}."""
        query = "SELECT file_id, sequence FROM applied WHERE collection = ?"
        with self._changing() as connection:
            return dict(connection.execute(query, (collection,)).fetchall())

    def held(self, collection: str, file_ids: Sequence[str]) -> dict[str, int]:
        """{file id: sequence} of those of the files that the index holds."""
        query = "SELECT sequence FROM applied WHERE collection = ? AND file_id = ?"
        found: dict[str, int] = {}
        with self._changing() as connection:
            for file_id in file_ids:
                row = connection.execute(query, (collection, file_id)).fetchone()
                if row is not None:
                    found[file_id] = row[0]
        return found

    def count(self, collection: str) -> int:
        """Number of chunks that the index should hold, at least."""
        query = "SELECT coalesce(sum(chunks), 0) FROM applied WHERE collection = ?"
        with self._changing() as connection:
            return int(connection.execute(query, (collection,)).fetchone()[0])

    def record(self, collection: str, files: Mapping[str, tuple[int, int]]) -> None:
        """The index holds {file id: (sequence, number of chunks)}."""
        rows = [(collection, file_id, *held) for file_id, held in files.items()]
        with self._changing() as connection:
            connection.executemany("INSERT OR REPLACE INTO applied VALUES (?, ?, ?, ?)", rows)

    def forget(self, collection: str, file_ids: Iterable[str]) -> None:
        """The index is about to change for these files."""
        rows = [(collection, file_id) for file_id in file_ids]
        with self._changing() as connection:
            connection.executemany("DELETE FROM applied WHERE collection = ? AND file_id = ?", rows)

    def forget_all(self, collections: Sequence[str]) -> None:
        """These indexes are about to go."""
        with self._changing() as connection:
            connection.executemany(
                "DELETE FROM applied WHERE collection = ?", [(name,) for name in collections]
            )

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._one_at_a_time:
            try:
                connection = sqlite3.connect(self._path)
                try:
                    with connection:
                        yield connection
                finally:
                    connection.close()
            except sqlite3.Error as error:
                raise StorageBroken(
                    f"{self._path} cannot be used: {error}. Delete {self._path.parent} and start "
                    "again: it is made anew from the catalog."
                ) from error
