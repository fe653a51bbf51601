"""Files in stores, which are the jobs too."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from ingest.document import Chunk
from rag_backend.errors import NotFound
from rag_backend.knowledge.models import FileStatus, Store, StoreFile
from rag_backend.knowledge.sql.database import Database
from rag_backend.knowledge.sql.rows import chunk_values, of_file
from rag_backend.knowledge.sql.tables import chunks, store_files, stores
from rag_backend.knowledge.sql.versions import (
    add_garbage_collection,
    add_garbage_postings,
    bump,
    discard,
    is_outdated,
    keep_postings,
    next_sequence,
    retire,
    retire_older_versions,
    take_garbage_over,
)
from rag_backend.text import nfc


class StoreFileTable(Database):
    """Files in vector stores. A job is one that is `in_progress`."""

    def attach(
        self, store_id: str, file_id: str, attributes: Mapping[str, Any], identity: str
    ) -> StoreFile:
        """Put a file into a store as a job; a completed or running one is left as it is."""
        with self._writing() as connection:
            key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
            status = connection.scalar(select(store_files.c.status).where(key))
            fresh = {"attributes": dict(attributes), "identity": identity, "owner": self.owner}
            if status in (None, "failed", "cancelled"):
                take_garbage_over(connection, store_id, file_id, self.owner)
            if status is None:
                connection.execute(
                    insert(store_files).values(
                        store_id=store_id,
                        file_id=file_id,
                        status="in_progress",
                        sequence=next_sequence(connection, store_id),
                        created_at=int(time.time()),
                        **fresh,
                    )
                )
            elif status in ("failed", "cancelled"):
                again = {
                    "status": "in_progress",
                    "sequence": next_sequence(connection, store_id),
                    "error_code": None,
                    "error_message": None,
                }
                connection.execute(update(store_files).where(key).values(**again, **fresh))
        return self.store_file(store_id, file_id)

    def store_file(self, store_id: str, file_id: str) -> StoreFile:
        """Raises NotFound."""
        key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
        with self._reading() as connection:
            row = connection.execute(select(store_files).where(key)).one_or_none()
        if row is None:
            raise NotFound(f"No file {file_id} in this vector store.", param="file_id")
        return StoreFile(**row._mapping)

    def list_store_files(
        self, store_id: str | None = None, status: FileStatus | None = None
    ) -> list[StoreFile]:
        """Files of one store, or of all, oldest first."""
        query = select(store_files).order_by(store_files.c.created_at, store_files.c.file_id)
        if store_id is not None:
            query = query.where(store_files.c.store_id == store_id)
        if status is not None:
            query = query.where(store_files.c.status == status)
        with self._reading() as connection:
            return [StoreFile(**row._mapping) for row in connection.execute(query)]

    def file_counts(self, store_id: str) -> tuple[dict[str, int], int]:
        """({status: number of files}, bytes of text in the completed ones)."""
        query = (
            select(store_files.c.status, func.count(), func.sum(store_files.c.usage_bytes))
            .where(store_files.c.store_id == store_id)
            .group_by(store_files.c.status)
        )
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return {row[0]: row[1] for row in rows}, sum(int(row[2] or 0) for row in rows)

    def set_attributes(self, store_id: str, file_id: str, attributes: Mapping[str, Any]) -> None:
        """Replace a store file's attributes; a new `path` becomes its identity."""
        values: dict[str, Any] = {"attributes": dict(attributes)}
        if "path" in attributes:
            values["identity"] = nfc(str(attributes["path"]))
        key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
        with self._writing() as connection:
            connection.execute(update(store_files).where(key).values(**values))
            bump(connection, store_id)

    def fail(
        self, store_id: str, file_id: str, code: str, message: str, *, written: bool = False
    ) -> None:
        """End a job with a reason; what an earlier version of the file left visible stays so.

        Nothing happens to a file that is not in progress any more.

        Args:
            written: Whether some of its vectors or postings may have been written.
        """
        key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
        with self._writing() as connection:
            row = connection.execute(select(store_files).where(key)).one_or_none()
            if row is not None and (row.status != "in_progress" or row.owner != self.owner):
                return
            if written:
                add_garbage_postings(connection, store_id, file_id)
            if row is None:
                return
            if is_outdated(connection, StoreFile(**row._mapping)):
                discard(connection, store_id, [file_id])
                return
            failed = {"status": "failed", "error_code": code, "error_message": message}
            connection.execute(update(store_files).where(key).values(**failed))
            retire_older_versions(connection, StoreFile(**row._mapping), ("failed",))

    def is_mine(self, file: StoreFile) -> bool:
        """Whether this backend is the one that indexes the file."""
        return file.owner == self.owner

    def complete(
        self,
        store_id: str,
        file_id: str,
        prepared: Sequence[Chunk],
        collection: str | None = None,
    ) -> bool:
        """Make a file's chunks visible and retire the version that they replace, at once.

        The replaced version is another file with the same identity in the same store, attached
        before this one; its bytes go too when no other store holds it.

        Args:
            collection: Where its vectors are (`Store.collection`).

        Returns:
            False when the file was removed in the meantime, or a later version of it is complete
            already: nothing was made visible, and what was written elsewhere is garbage. Or when
            another backend has taken the job over, or rebuilt the store: then it is done again.
        """
        key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
        with self._writing() as connection:
            row = connection.execute(select(store_files).where(key)).one_or_none()
            served = _served(connection, store_id)
            if row is None:
                add_garbage_postings(connection, store_id, file_id)
                if served is None and collection is not None:
                    add_garbage_collection(connection, store_id, collection)
                return False
            if row.owner != self.owner:
                return False
            if collection not in (None, served):
                connection.execute(update(store_files).where(key).values(owner=None))
                return False
            if is_outdated(connection, StoreFile(**row._mapping)):
                discard(connection, store_id, [file_id])
                return False
            keep_postings(connection, store_id, file_id)
            connection.execute(delete(chunks).where(of_file(store_id, file_id)))
            if prepared:
                connection.execute(
                    insert(chunks),
                    [chunk_values(store_id, file_id, i, c) for i, c in enumerate(prepared)],
                )
            size = sum(len(chunk.text.encode()) for chunk in prepared)
            done = {"status": "completed", "usage_bytes": size}
            connection.execute(update(store_files).where(key).values(**done))
            retire_older_versions(connection, StoreFile(**row._mapping))
            bump(connection, store_id)
        return True

    def detach(self, store_id: str, file_id: str) -> None:
        """Take a file out of a store; its bytes stay. Raises NotFound."""
        self.store_file(store_id, file_id)
        with self._writing() as connection:
            retire(connection, store_id, [file_id])


def _served(connection: Connection, store_id: str) -> str | None:
    """The collection that the store serves; None when it was deleted."""
    row = connection.execute(select(stores).where(stores.c.id == store_id)).one_or_none()
    return None if row is None else Store(**row._mapping).collection
