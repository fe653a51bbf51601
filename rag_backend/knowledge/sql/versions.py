"""Which version of a file a store shows, and how the others go: parts of a catalog transaction.

Versions are files of one store with the same identity; the one attached last is the newest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from rag_backend.knowledge.models import FileStatus, StoreFile
from rag_backend.knowledge.sql.database import SQL_VARIABLES
from rag_backend.knowledge.sql.rows import of_file
from rag_backend.knowledge.sql.tables import chunks, files, garbage, store_files, stores


def next_sequence(connection: Connection, store_id: str, files: int = 1) -> int:
    """The place of the first of so many files attached next.

    Between backends none is given twice, not even when the last file has gone: by it they know
    versions apart.
    """
    newest = select(func.max(store_files.c.sequence)).where(store_files.c.store_id == store_id)
    last = int(connection.scalar(newest) or 0)
    if connection.dialect.name == "postgresql":
        this = stores.c.id == store_id
        last = max(last, int(connection.scalar(select(stores.c.attached).where(this)) or 0))
        connection.execute(update(stores).where(this).values(attached=last + files))
    return last + 1


def _versions(file: StoreFile, statuses: Sequence[FileStatus]) -> Any:
    """Query for other files of the same store and identity in one of the statuses."""
    return select(store_files.c.file_id).where(
        store_files.c.store_id == file.store_id,
        store_files.c.identity == file.identity,
        store_files.c.file_id != file.file_id,
        store_files.c.status.in_(statuses),
    )


def is_outdated(connection: Connection, file: StoreFile) -> bool:
    """Whether a later version is complete already."""
    later = _versions(file, ("completed",)).where(store_files.c.sequence > file.sequence)
    return connection.execute(later).first() is not None


def retire_older_versions(
    connection: Connection,
    current: StoreFile,
    statuses: Sequence[FileStatus] = ("completed", "failed"),
) -> None:
    """Discard versions attached before this one; those in progress find out by themselves."""
    older = _versions(current, statuses).where(store_files.c.sequence < current.sequence)
    discard(connection, current.store_id, connection.scalars(older).all())


def discard(connection: Connection, store_id: str, file_ids: Sequence[str]) -> None:
    """Retire files from a store, and delete those that no other store holds."""
    retire(connection, store_id, file_ids)
    for file_id in file_ids:
        held = select(func.count()).where(store_files.c.file_id == file_id)
        if not connection.scalar(held):
            connection.execute(delete(files).where(files.c.id == file_id))
            connection.execute(insert(garbage).values(kind="bytes", file_id=file_id))


def retire(connection: Connection, store_id: str, file_ids: Sequence[str]) -> None:
    """Remove files from a store's catalog, and note that their postings must go."""
    if not file_ids:
        return
    for file_id in file_ids:
        connection.execute(delete(chunks).where(of_file(store_id, file_id)))
        key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
        writer = None
        if connection.dialect.name == "postgresql":  # else there is nobody else
            running = key & (store_files.c.status == "in_progress")
            writer = connection.scalar(select(store_files.c.owner).where(running))
        connection.execute(delete(store_files).where(key))
        add_garbage_postings(connection, store_id, file_id, writer)
    bump(connection, store_id)


def bump(connection: Connection, store_id: str) -> None:
    """A visible change: the store's revision grows."""
    connection.execute(
        update(stores)
        .where(stores.c.id == store_id)
        .values(revision=stores.c.revision + 1, last_active_at=int(time.time()))
    )


def add_garbage_postings(
    connection: Connection, store_id: str, file_id: str, owner: str | None = None
) -> None:
    """Vectors and postings of a file in a store must go.

    Args:
        owner: The backend that may be writing them now: they go when it is done with that.
    """
    connection.execute(
        insert(garbage).values(kind="postings", store_id=store_id, file_id=file_id, owner=owner)
    )


def add_garbage_collection(
    connection: Connection, store_id: str, collection: str, owners: Sequence[str | None] = ()
) -> None:
    """Derived data of a whole store must go: at once, and again when those who may be writing
    there (`owners`, see `at_work`) are done with that."""
    for owner in {None, *owners}:
        connection.execute(
            insert(garbage).values(
                kind="collection", store_id=store_id, collection=collection, owner=owner
            )
        )


def at_work(store_id: str) -> Any:
    """Query for the backends that index files into the store now."""
    running = (store_files.c.store_id == store_id) & (store_files.c.status == "in_progress")
    return select(store_files.c.owner).where(running).distinct()


def take_garbage_over(
    connection: Connection, store_id: str, file_ids: Sequence[str], owner: str | None
) -> None:
    """Files come back: only their indexer knows when what was there before must be gone."""
    for at in range(0, len(file_ids), SQL_VARIABLES):
        connection.execute(
            update(garbage)
            .where(
                garbage.c.kind == "postings",
                garbage.c.store_id == store_id,
                garbage.c.file_id.in_(file_ids[at : at + SQL_VARIABLES]),
            )
            .values(owner=owner)
        )


def has_garbage_postings(connection: Connection, store_id: str, file_id: str) -> bool:
    """Whether what was written for a file is listed to go: it was removed meanwhile."""
    listed = select(garbage.c.id).where(
        garbage.c.kind == "postings",
        garbage.c.store_id == store_id,
        garbage.c.file_id == file_id,
    )
    return connection.execute(listed.limit(1)).first() is not None
