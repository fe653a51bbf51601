"""Files in stores, which are the jobs too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, update

from ingest.document import Chunk
from rag_backend.errors import NotFound
from rag_backend.knowledge.models import Attachment, Completion, FileStatus, StoreFile
from rag_backend.knowledge.sql.attaching import of_attributes, put_all
from rag_backend.knowledge.sql.completing import Place, Prepared, complete_all
from rag_backend.knowledge.sql.database import Database
from rag_backend.knowledge.sql.tables import store_files
from rag_backend.knowledge.sql.versions import (
    add_garbage_postings,
    bump,
    discard,
    is_outdated,
    retire,
    retire_older_versions,
)


class StoreFileTable(Database):
    """Files in vector stores. A job is one that is `in_progress`."""

    def attach(
        self, store_id: str, file_id: str, attributes: Mapping[str, Any], identity: str
    ) -> StoreFile:
        """Put a file into a store as a job; see `attaching.put_all`."""
        wanted = Attachment(file_id, attributes, identity=identity)
        with self._writing() as connection:
            put_all(connection, store_id, [wanted], owner=self.owner)
        return self.store_file(store_id, file_id)

    def attach_all(
        self, store_id: str, wanted: Sequence[Attachment], batch_id: str | None = None
    ) -> list[StoreFile]:
        """Put files into a store as jobs, all or none; see `attaching.put_all`."""
        with self._writing() as connection:
            return put_all(connection, store_id, wanted, batch_id, self.owner)

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

    def status_counts(self) -> dict[str, int]:
        """{status: number of files}, over all stores."""
        query = select(store_files.c.status, func.count()).group_by(store_files.c.status)
        with self._reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def set_attributes(self, store_id: str, file_id: str, attributes: Mapping[str, Any]) -> None:
        """Replace a store file's attributes; a new `path` becomes its identity."""
        key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
        with self._writing() as connection:
            connection.execute(update(store_files).where(key).values(**of_attributes(attributes)))
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
            if row is not None and row.status not in ("in_progress", "cancelled"):
                return
            if row is not None and row.owner != self.owner:
                return  # another backend's by now
            if written:
                add_garbage_postings(connection, store_id, file_id)
            if row is None or row.status == "cancelled":
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
        prepared: Collection[Chunk],
        collection: str | None = None,
    ) -> bool:
        """`complete_files` for one; whether it is visible now."""
        written = {(store_id, file_id): collection} if collection else {}
        return self.complete_files([(store_id, file_id, prepared)], written) == ["completed"]

    def complete_files(
        self, prepared: Sequence[Prepared], collections: Mapping[Place, str] | None = None
    ) -> list[Completion]:
        """Make files' chunks visible and retire the versions that they replace, all at once.

        A replaced version is another file with the same identity in the same store, attached before
        this one; its bytes go too when no other store holds it.

        Args:
            prepared: (store id, file id, chunks), each of a file whose vectors and postings are
                written.
            collections: Where these are (`Store.collection`), by (store id, file id); only asked
                for between backends, which may rebuild the store meanwhile.

        Returns:
            For each, "completed"; or "gone" when the file was removed or its job ended (it was
            cancelled, say) in the meantime, or a later version of it is complete already: nothing
            was made visible, and what was written elsewhere is garbage; or "stale" when it was
            removed and came back: what was written elsewhere is listed as garbage already, and the
            job begins again. Between backends a job that went to another one is "gone", and one
            whose store another one has rebuilt is "stale".
        """
        with self._writing() as connection:
            outcomes = complete_all(connection, prepared, self.owner, collections or {})
            pairs = zip(prepared, outcomes, strict=True)
            for store_id in {item[0] for item, outcome in pairs if outcome == "completed"}:
                bump(connection, store_id)
        return outcomes

    def detach(self, store_id: str, file_id: str) -> None:
        """Take a file out of a store; its bytes stay. Raises NotFound."""
        self.store_file(store_id, file_id)
        with self._writing() as connection:
            retire(connection, store_id, [file_id])
