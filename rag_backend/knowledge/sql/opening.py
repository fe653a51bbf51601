"""How a catalog is opened, and one of an earlier version brought up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.schema import CreateColumn

from rag_backend.errors import StorageBroken, StorageFull
from rag_backend.knowledge.sql.failures import mapped_errors
from rag_backend.knowledge.sql.tables import SCHEMA_VERSION, metadata


def open_sqlite(path: Path) -> Engine:
    """Open (or create) the catalog at `path` in WAL mode and create missing tables.

    Raises:
        StorageBroken: It is not a catalog, or one of another version of this backend.
        StorageFull: The disk is full.
    """
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # Transactions are begun by hand below: the driver's own begin comes only before the first
        # write, so that a read followed by a write in one transaction could see two states.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    try:
        with mapped_errors(), engine.begin() as connection:
            _check_version(connection, path)
            metadata.create_all(connection)
            _add_columns(connection, path)
    except (StorageBroken, StorageFull):
        engine.dispose()
        raise
    return engine


def _check_version(connection: Connection, path: Path) -> None:
    """Refuse a later version's catalog; mark a new one, and those that are brought up to date."""
    found = connection.exec_driver_sql("PRAGMA user_version").scalar() or 0
    if found > SCHEMA_VERSION:
        raise StorageBroken(
            f"{path} was made by a later version of this backend (schema {found}, this one "
            f"knows {SCHEMA_VERSION}): run that version, or use another DATA_DIR."
        )
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _add_columns(connection: Connection, path: Path) -> None:
    """Give an earlier version's tables the columns and indexes that have come since."""
    found = inspect(connection)
    for table in metadata.sorted_tables:
        present = {column["name"] for column in found.get_columns(table.name)}
        unknown = sorted(present - set(table.columns.keys()))
        missing = [column for column in table.columns if column.name not in present]
        fixed = [c.name for c in missing if not c.nullable and c.server_default is None]
        if unknown or fixed:
            raise StorageBroken(
                f"{path} was made by another version of this backend (table {table.name} differs "
                f"in {', '.join([*unknown, *fixed])}): run that version, or use another DATA_DIR "
                "and ingest the documents again."
            )
        for column in missing:
            clause = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {clause}")
        for index in table.indexes:
            index.create(connection, checkfirst=True)
