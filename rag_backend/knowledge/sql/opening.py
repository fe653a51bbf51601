"""How a catalog is opened, and one of an earlier version brought up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.schema import CreateColumn

from rag_backend.errors import RAGError, StartError, StorageAway, StorageBroken
from rag_backend.knowledge.sql.database import writer_lock
from rag_backend.knowledge.sql.failures import mapped_errors
from rag_backend.knowledge.sql.tables import SCHEMA_VERSION, catalog_version, metadata

_POSTGRES_SETTINGS = {
    # A backend that is paused in the middle of a transaction must not stop the others for long.
    "idle_in_transaction_session_timeout": "30s",
    "lock_timeout": "60s",
    # Nor one whose machine was switched off.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "client_encoding": "UTF8",
}
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


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

    return _prepared(engine, str(path), "use another DATA_DIR")


def open_postgres(url: str) -> Engine:
    """Open the catalog in the PostgreSQL database at `url`, and create missing tables.

    Any number of backends may do so at once.

    Raises:
        StartError: The URL is malformed, or the driver is not installed.
        StorageAway: The server does not answer, or does not let this user in.
        StorageBroken: The database holds a catalog of another version of this backend, or its user
            may not create tables.
    """
    address = postgres_address(url)
    where = f"PostgreSQL at {shown_address(address)}"
    try:
        engine = create_engine(
            address.set(drivername="postgresql+psycopg"),
            connect_args={"connect_timeout": 5, "application_name": "rag_backend", **_KEEPALIVES},
            pool_size=10,
            max_overflow=20,
            pool_timeout=20,
            pool_pre_ping=True,  # connections that a restart of the server cut are replaced
        )
    except ModuleNotFoundError as error:
        raise StartError(
            "DATABASE_URL names PostgreSQL, and its driver is not installed: run "
            '`pip install -c constraints.txt ".[backend,postgres]"`.'
        ) from error

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            for name, value in _POSTGRES_SETTINGS.items():
                cursor.execute(f"SET {name} = '{value}'")
        connection.commit()

    try:
        return _prepared(engine, where, "use another database")
    except StorageAway as error:
        raise StorageAway(
            f"{where} (DATABASE_URL) cannot be used: {_reason(error)}. Start the server, or "
            "correct the address, the user, the password or the database's name."
        ) from error


def postgres_address(url: str) -> URL:
    """`url` in its parts; raises StartError when it is not PostgreSQL's."""
    try:
        address = make_url(url)
        name = address.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise StartError(
            "DATABASE_URL is no database URL: write postgresql://USER:PASSWORD@HOST/DATABASE "
            "(signs such as @ or / in the password as %40, %2F), or leave it empty for SQLite in "
            "DATA_DIR."
        ) from error
    if name not in ("postgresql", "postgres"):
        raise StartError(
            f"DATABASE_URL names {name}: only PostgreSQL is known; leave it empty for SQLite in "
            "DATA_DIR."
        )
    return address


def shown_address(address: URL) -> str:
    """Host, port and database, and nothing secret."""
    host = address.host or str(address.query.get("host", "localhost"))
    port = f":{address.port}" if address.port else ""
    return f"{host}{port}/{address.database or ''}"


def _reason(error: StorageAway) -> str:
    """What the driver said, on one line; its texts name host and user, never the password."""
    cause = error.__cause__
    text = str(getattr(cause, "orig", None) or cause)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__).rstrip(". ")


def _prepared(engine: Engine, where: str, other: str) -> Engine:
    """Check the version, create what is missing; the engine is closed when that fails.

    Args:
        where: The catalog's place, for a person.
        other: What else a person can do when it belongs to another version.
    """
    postgres = engine.dialect.name == "postgresql"
    try:
        with mapped_errors(), engine.begin() as connection:
            if postgres:  # two backends may start at once
                connection.execute(select(writer_lock()))
            catalog_version.create(connection, checkfirst=True)
            _check_version(connection, postgres, where, other)
            metadata.create_all(connection)
            _add_columns(connection, where, other)
    except RAGError:
        engine.dispose()
        raise
    return engine


def _check_version(connection: Connection, postgres: bool, where: str, other: str) -> None:
    """Refuse a later version's catalog; mark a new one, and those that are brought up to date."""
    if postgres:
        found = connection.scalar(select(catalog_version.c.version)) or 0
    else:
        found = connection.exec_driver_sql("PRAGMA user_version").scalar() or 0
    if found > SCHEMA_VERSION:
        raise StorageBroken(
            f"{where} was made by a later version of this backend (schema {found}, this one "
            f"knows {SCHEMA_VERSION}): run that version, or {other}."
        )
    if found == SCHEMA_VERSION:
        return
    if postgres:
        connection.execute(delete(catalog_version))
        connection.execute(insert(catalog_version).values(version=SCHEMA_VERSION))
    else:
        connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _add_columns(connection: Connection, where: str, other: str) -> None:
    """Give an earlier version's tables the columns and indexes that have come since."""
    found = inspect(connection)
    for table in metadata.sorted_tables:
        present = {column["name"] for column in found.get_columns(table.name)}
        unknown = sorted(present - set(table.columns.keys()))
        missing = [column for column in table.columns if column.name not in present]
        fixed = [c.name for c in missing if not c.nullable and c.server_default is None]
        if unknown or fixed:
            raise StorageBroken(
                f"{where} was made by another version of this backend (table {table.name} differs "
                f"in {', '.join([*unknown, *fixed])}): run that version, or {other} and ingest "
                "the documents again."
            )
        for column in missing:
            clause = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {clause}")
        for index in table.indexes:
            index.create(connection, checkfirst=True)
