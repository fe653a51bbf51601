"""Uploaded files in the catalog."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select

from rag_backend.errors import NotFound
from rag_backend.knowledge.models import FileRecord, Reach
from rag_backend.knowledge.sql.database import SQL_VARIABLES, Database
from rag_backend.knowledge.sql.reaching import files_within
from rag_backend.knowledge.sql.rows import unexpired
from rag_backend.knowledge.sql.tables import files, garbage, store_files, stores
from rag_backend.knowledge.sql.versions import retire


class FileTable(Database):
    """Uploaded bytes: the records, not the bytes."""

    def add_file(self, file: FileRecord) -> None:
        """Record uploaded bytes that are already on disk."""
        with self._writing() as connection:
            connection.execute(
                insert(files).values(
                    id=file.id,
                    filename=file.filename,
                    bytes=file.bytes,
                    sha256=file.sha256,
                    purpose=file.purpose,
                    created_at=file.created_at,
                    expires_at=file.expires_at,
                    uploaded_by=file.uploaded_by,
                )
            )

    def file(self, file_id: str, reach: Reach | None = None) -> FileRecord:
        """Raises NotFound, for a file that has expired or is out of reach too."""
        query = select(files).where(files.c.id == file_id, unexpired(), *files_within(reach))
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"No such file: {file_id}", param="file_id")
        return FileRecord(**row._mapping)

    def check_reach(self, file_ids: Sequence[str], reach: Reach | None) -> None:
        """Raise NotFound for the first of these files that is out of reach, or is none."""
        if reach is None:
            return
        found: set[str] = set()
        with self._reading() as connection:
            for at in range(0, len(file_ids), SQL_VARIABLES):
                part = files.c.id.in_(file_ids[at : at + SQL_VARIABLES])
                query = select(files.c.id).where(part, unexpired(), *files_within(reach))
                found |= set(connection.scalars(query))
        for file_id in file_ids:
            if file_id not in found:
                raise NotFound(f"No such file: {file_id}", param="file_id")

    def holders(self, file_id: str) -> list[tuple[str, str]]:
        """(id, name) of the stores that a file is in."""
        query = select(stores.c.id, stores.c.name).join(store_files)
        with self._reading() as connection:
            rows = connection.execute(query.where(store_files.c.file_id == file_id))
            return [(row.id, row.name) for row in rows]

    def list_files(self, purpose: str | None = None) -> list[FileRecord]:
        """All files, oldest first."""
        query = select(files).order_by(files.c.created_at, files.c.id)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        with self._reading() as connection:
            return [FileRecord(**row._mapping) for row in connection.execute(query)]

    def delete_file(self, file_id: str) -> None:
        """Delete a file and its place in every store; raises NotFound."""
        with self._writing() as connection:
            holders = connection.scalars(
                select(store_files.c.store_id).where(store_files.c.file_id == file_id)
            ).all()
            for store_id in holders:
                retire(connection, store_id, [file_id])
            if not connection.execute(delete(files).where(files.c.id == file_id)).rowcount:
                raise NotFound(f"No such file: {file_id}", param="file_id")
            connection.execute(insert(garbage).values(kind="bytes", file_id=file_id))
