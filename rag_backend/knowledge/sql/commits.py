"""Whether anything was committed since: what makes it safe to remember what was read."""

from __future__ import annotations

import sqlite3
import threading

from sqlalchemy import Engine


class Commits:
    """Watches a catalog in an SQLite file; of any other it knows nothing.

    SQLite's `data_version`, read on a connection that never writes, differs after a commit by any
    other connection, of this process or another (https://www.sqlite.org/pragma.html).
    """

    def __init__(self, engine: Engine) -> None:
        path = engine.url.database
        self._one_reader = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        if engine.dialect.name == "sqlite" and path and path != ":memory:":
            # No waiting: who asks serves requests meanwhile.
            self._connection = sqlite3.connect(path, timeout=0, check_same_thread=False)

    def mark(self) -> int | None:
        """A number that changes with every commit; None where it cannot be told."""
        with self._one_reader:
            if self._connection is None:
                return None
            try:
                (number,) = self._connection.execute("PRAGMA data_version").fetchone()
            except sqlite3.Error:
                return None
        return int(number)

    def close(self) -> None:
        """Close the connection."""
        with self._one_reader:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
