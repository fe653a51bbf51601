"""A database's errors as this package's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError

from rag_backend.errors import BadRequest, Conflict, StorageBroken, StorageFull


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
