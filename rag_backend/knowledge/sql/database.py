"""One engine, and how a method of the catalog reads and writes through it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from rag_backend.errors import StorageAway
from rag_backend.knowledge.sql.commits import Commits
from rag_backend.knowledge.sql.failures import mapped_errors

SQL_VARIABLES = 500
"""Items in one IN (...); SQLite's own limit is 32,766 values."""

_LONGEST_CLOSE_SECONDS = 30.0

WRITER_LOCK = 0x52414742
"""PostgreSQL's advisory lock of whoever writes; its second half is the schema (search_path)."""


class Database:
    """What every room of the catalog stands on.

    One transaction writes at a time, in SQLite and in PostgreSQL, whatever the number of backends:
    each sees everything that was written before it, and no two wait for each other. The price is
    small, since a backend that indexes spends its time on reading and embedding.
    """

    def __init__(self, engine: Engine, owner: str | None = None) -> None:
        """`owner` is this backend's id among those that share the catalog; None: it is alone."""
        self._engine = engine
        self.owner = owner
        self._postgres = engine.dialect.name == "postgresql"
        self._commits = Commits(engine)
        self._one_writer = threading.Lock()
        self._in_use = 0
        self._closed = False
        self._idle = threading.Condition()
        snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._snapshots = engine.execution_options(**snapshot) if self._postgres else engine

    def close(self) -> None:
        """Close all connections, once no thread uses one: some outlive their tasks."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._in_use, _LONGEST_CLOSE_SECONDS)
        self._commits.close()
        self._engine.dispose()

    def mark(self) -> int | None:
        """A number that changes with every commit; None where that is not known (see Commits).

        What was read after a mark holds for as long as the mark does. Costs microseconds.
        """
        return self._commits.mark()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """One state of the catalog, however many queries."""
        with mapped_errors(), self._using(), self._snapshots.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction; all or nothing, and one after the other."""
        using = self._using()
        with mapped_errors(), using, self._one_writer, self._engine.begin() as connection:
            if self._postgres:
                connection.execute(select(writer_lock()))
            yield connection

    @contextmanager
    def _beside_writers(self) -> Iterator[Connection]:
        """A transaction on rows that no other one depends on: it waits for no writer."""
        with mapped_errors(), self._using(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _using(self) -> Iterator[None]:
        with self._idle:
            if self._closed:
                raise StorageAway("The backend is stopping.")
            self._in_use += 1
        try:
            yield
        finally:
            with self._idle:
                self._in_use -= 1
                self._idle.notify_all()


def writer_lock() -> Any:
    """PostgreSQL: wait until no other transaction holds the lock; held until the commit."""
    return func.pg_advisory_xact_lock(WRITER_LOCK, func.hashtext(func.current_schema()))
