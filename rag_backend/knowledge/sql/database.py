"""One engine, and how a method of the catalog reads and writes through it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from rag_backend.knowledge.sql.commits import Commits
from rag_backend.knowledge.sql.failures import mapped_errors

SQL_VARIABLES = 500
"""Items in one IN (...); SQLite's own limit is 32,766 values."""


class Database:
    """What every room of the catalog stands on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._commits = Commits(engine)
        self._one_writer = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        self._commits.close()
        self._engine.dispose()

    def mark(self) -> int | None:
        """A number that changes with every commit; None where that is not known (see Commits).

        What was read after a mark holds for as long as the mark does. Costs microseconds.
        """
        return self._commits.mark()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with mapped_errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction; all or nothing."""
        with mapped_errors(), self._one_writer, self._engine.begin() as connection:
            yield connection
