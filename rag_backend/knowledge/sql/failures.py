"""A database's errors as this package's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from rag_backend.errors import (
    BadRequest,
    Conflict,
    StorageAway,
    StorageBroken,
    StorageFull,
    StorageLocked,
)

_AWAY = (
    "PostgreSQL (DATABASE_URL) does not answer now: try again in a moment; if it lasts, see that "
    "the server runs and that its address, user and password are right."
)
_DISK_FULL = "53100"
"""PostgreSQL's SQLSTATE."""


@contextmanager
def mapped_errors() -> Iterator[None]:
    """A database's errors as this package's own.

    Raises:
        BadRequest: A text is not valid Unicode, or a value does not fit.
        Conflict: A row that a change refers to is gone, or one like it came first.
        StorageAway, StorageFull, StorageBroken: See there.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise BadRequest("A text in the request is not valid Unicode.") from error
    except DataError as error:
        raise BadRequest(
            "A value in the request cannot be stored: a text with a NUL character, or a number "
            "that is too large."
        ) from error
    except IntegrityError as error:
        raise Conflict(
            "What this refers to was changed or deleted at the same moment: look again and retry."
        ) from error
    except PoolTimeoutError as error:
        raise StorageAway(_AWAY) from error
    except (DBAPIError, sqlite3.Error) as error:  # the second from opening a connection
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, sqlite3.Error):
            raise _of_sqlite(cause) from error
        raise _of_postgres(error, cause) from error


def _of_sqlite(cause: sqlite3.Error) -> StorageAway | StorageFull | StorageBroken:
    reason = str(cause)
    if "disk is full" in reason:
        return StorageFull("The disk that holds DATA_DIR is full: free some space, then try again.")
    if "locked" in reason:  # it passes: no file fails for it
        return StorageLocked(
            "The catalog in DATA_DIR is locked by another program (a backup, a database "
            "browser): close it there; what was asked for can then be tried again."
        )
    return StorageBroken(
        f"The catalog in DATA_DIR cannot be used: {reason}. Check the directory's permissions "
        "and its disk; if the file is damaged, restore it from a backup, or use another "
        "DATA_DIR and ingest the documents again."
    )


def _of_postgres(
    error: DBAPIError | sqlite3.Error, cause: object
) -> StorageAway | StorageFull | StorageBroken:
    if getattr(cause, "sqlstate", None) == _DISK_FULL:
        return StorageFull("The disk of the PostgreSQL server is full: free some space there.")
    # Lost or refused connections, a server that stops or starts, waiting too long for a lock.
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or isinstance(error, OperationalError):
        return StorageAway(_AWAY)
    reason = str(cause).partition("\n")[0].rstrip(". ")
    return StorageBroken(
        f"The catalog in PostgreSQL (DATABASE_URL) cannot be used: {reason}. See that its user "
        "may create and change tables there."
    )
