"""Batches: files that were put into a store together, and can be cancelled together.

A batch has no state of its own beside having been cancelled: its counts are those of its files that
are in the store. One that was deleted or replaced since leaves them, so a batch is never in
progress for a file that nobody will index.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from rag_backend.errors import NotFound
from rag_backend.knowledge.models import Attachment, Batch, StoreFile, new_id
from rag_backend.knowledge.sql.attaching import put_all
from rag_backend.knowledge.sql.database import Database
from rag_backend.knowledge.sql.tables import batch_files, batches, store_files
from rag_backend.knowledge.sql.versions import add_garbage_postings


class BatchTable(Database):
    """Batches of store files."""

    def add_batch(
        self, store_id: str, wanted: Sequence[Attachment]
    ) -> tuple[Batch, list[StoreFile]]:
        """Put files into a store as one batch, all or none; raises what `put_all` does."""
        batch_id = new_id("vsfb_")
        with self._writing() as connection:
            attached = put_all(connection, store_id, wanted, batch_id, self.owner)
            row = {"id": batch_id, "store_id": store_id, "created_at": int(time.time())}
            connection.execute(insert(batches).values(**row))
            members = [{"batch_id": batch_id, "file_id": file.file_id} for file in attached]
            connection.execute(insert(batch_files), members)
        return self.batch(store_id, batch_id), attached

    def batch(self, store_id: str, batch_id: str) -> Batch:
        """Raises NotFound."""
        with self._reading() as connection:
            row = _row(connection, store_id, batch_id)
            counted = in_batch(
                select(store_files.c.status, func.count()), store_id, batch_id
            ).group_by(store_files.c.status)
            counts = {status: int(n) for status, n in connection.execute(counted)}
        return Batch(row.id, row.store_id, row.created_at, row.cancelled, counts)

    def cancel_batch(self, store_id: str, batch_id: str) -> Batch:
        """Cancel what a batch has not indexed yet; nothing happens to one that is done.

        A file that another batch asked for later goes on. What the writer is writing at this
        moment it finds cancelled when it wants to make it visible. Raises NotFound.
        """
        with self._writing() as connection:
            _row(connection, store_id, batch_id)
            mine = (
                (store_files.c.store_id == store_id)
                & (store_files.c.batch_id == batch_id)
                & (store_files.c.status == "in_progress")
            )
            jobs = connection.execute(
                select(store_files.c.file_id, store_files.c.owner).where(mine)
            ).all()
            if jobs:
                connection.execute(update(store_files).where(mine).values(status="cancelled"))
                for file_id, owner in jobs:  # some of it may be in Chroma, and a crash come now
                    add_garbage_postings(connection, store_id, file_id, owner)
                this = batches.c.id == batch_id
                connection.execute(update(batches).where(this).values(cancelled=True))
        return self.batch(store_id, batch_id)


def in_batch(query: Select[Any], store_id: str, batch_id: str) -> Select[Any]:
    """A query over `store_files`, for the files of a batch alone."""
    members = select(batch_files.c.file_id).where(batch_files.c.batch_id == batch_id)
    return query.where(store_files.c.store_id == store_id, store_files.c.file_id.in_(members))


def forget_batches(connection: Connection, store_id: str) -> None:
    """The store's batches go with it."""
    mine = select(batches.c.id).where(batches.c.store_id == store_id)
    connection.execute(delete(batch_files).where(batch_files.c.batch_id.in_(mine)))
    connection.execute(delete(batches).where(batches.c.store_id == store_id))


def _row(connection: Connection, store_id: str, batch_id: str) -> Row[Any]:
    query = select(batches).where(batches.c.id == batch_id, batches.c.store_id == store_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"No such file batch in this vector store: {batch_id}", param="batch_id")
    return row
