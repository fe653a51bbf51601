"""The catalog's tables (SQLAlchemy Core), and how a SQLite database is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Engine,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    inspect,
)
from sqlalchemy.exc import DBAPIError, IntegrityError

from rag_backend.errors import BadRequest, Conflict, StorageBroken, StorageFull

metadata = MetaData()

SCHEMA_VERSION = 1
"""Grows when a catalog of before cannot be read as it is; kept in SQLite's `user_version`."""

files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

stores = Table(
    "stores",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(256), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("last_active_at", BigInteger, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("revision", Integer, nullable=False, default=0),
    Column("generation", Integer, nullable=False, default=0),
    Column("rebuilding", Boolean, nullable=False, default=False),
    Column("embedding_model", Text),
    Column("embedding_probe", LargeBinary),
)

store_files = Table(
    "store_files",
    metadata,
    Column("store_id", ForeignKey("stores.id"), primary_key=True),
    Column("file_id", ForeignKey("files.id"), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("sequence", Integer, nullable=False),  # order of attachment within the store
    Column("created_at", BigInteger, nullable=False),
    Column("usage_bytes", BigInteger, nullable=False, default=0),
    Column("attributes", JSON, nullable=False),
    Column("identity", Text, nullable=False),
    Column("error_code", String(32)),
    Column("error_message", Text),
    Index("store_files_identity", "store_id", "identity"),
    Index("store_files_file", "file_id"),
    Index("store_files_status", "status"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("store_id", String(64), primary_key=True),
    Column("file_id", String(64), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("text", Text, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("page", Integer),
    Column("heading_path", JSON, nullable=False),
    Column("question", Text),
    Column("answer", Text),
    Column("question_key", Text),
    ForeignKeyConstraint(["store_id", "file_id"], ["store_files.store_id", "store_files.file_id"]),
    Index("chunks_question", "store_id", "question_key"),
)

garbage = Table(
    "garbage",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("store_id", String(64)),
    Column("file_id", String(64)),
    Column("collection", String(128)),
)

fusion_weights = Table(
    "fusion_weights",
    metadata,
    Column("store_id", String(64), primary_key=True),
    Column("collection", String(128), nullable=False),
    Column("learnt_from", Integer, nullable=False),
    Column("dense_weight", JSON, nullable=False),
)
"""What each store has learnt about its encoder; made anew when lost, and absent in older catalogs
until they are opened."""


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
        with mapped_errors():
            _check_version(engine, path)
            metadata.create_all(engine)
            _check_columns(engine, path)
    except (StorageBroken, StorageFull):
        engine.dispose()
        raise
    return engine


@contextmanager
def mapped_errors() -> Iterator[None]:
    """A database's errors as this package's own.

    Raises:
        BadRequest: A text is not valid Unicode.
        Conflict: A row that a change refers to is gone, or one like it came first.
        StorageFull, StorageBroken: See there.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise BadRequest("A text in the request is not valid Unicode.") from error
    except IntegrityError as error:
        raise Conflict(
            "What this refers to was changed or deleted at the same moment: look again and retry."
        ) from error
    except (DBAPIError, sqlite3.Error) as error:  # the second from opening a connection
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        if "disk is full" in reason:
            raise StorageFull(
                "The disk that holds DATA_DIR is full: free some space, then try again."
            ) from error
        raise StorageBroken(
            f"The catalog in DATA_DIR cannot be used: {reason}. Check the directory's permissions "
            "and its disk; if the file is damaged, restore it from a backup, or use another "
            "DATA_DIR and ingest the documents again."
        ) from error


def _check_version(engine: Engine, path: Path) -> None:
    """Refuse a later version's catalog; mark a new one, and those from before there were marks."""
    with engine.connect() as connection:
        found = connection.exec_driver_sql("PRAGMA user_version").scalar() or 0
        if found > SCHEMA_VERSION:
            raise StorageBroken(
                f"{path} was made by a later version of this backend (schema {found}, this one "
                f"knows {SCHEMA_VERSION}): run that version, or use another DATA_DIR."
            )
        connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.commit()


def _check_columns(engine: Engine, path: Path) -> None:
    found = inspect(engine)
    for table in metadata.sorted_tables:
        present = {column["name"] for column in found.get_columns(table.name)}
        differing = sorted(present ^ set(table.columns.keys()))
        if differing:
            raise StorageBroken(
                f"{path} was made by another version of this backend (table {table.name} differs "
                f"in {', '.join(differing)}): run that version, or use another DATA_DIR and ingest "
                "the documents again."
            )
