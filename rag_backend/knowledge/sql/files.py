"""Uploaded files in the catalog."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from rag_backend.errors import NotFound
from rag_backend.knowledge.models import FileRecord
from rag_backend.knowledge.sql.database import Database
from rag_backend.knowledge.sql.tables import files, garbage, store_files
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
                )
            )

    def file(self, file_id: str) -> FileRecord:
        """Raises NotFound."""
        with self._reading() as connection:
            row = connection.execute(select(files).where(files.c.id == file_id)).one_or_none()
        if row is None:
            raise NotFound(f"No such file: {file_id}", param="file_id")
        return FileRecord(**row._mapping)

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
