"""Bytes of files in the catalog, where several backends must reach them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import delete, insert, select

from rag_backend.knowledge.sql.database import Database
from rag_backend.knowledge.sql.tables import file_parts


class PartTable(Database):
    """Bytes, never whole in memory. PostgreSQL only."""

    def store_parts(self, file_id: str, parts: Iterable[bytes]) -> None:
        """Store a file's bytes, all or nothing."""
        with self._beside_writers() as connection:
            for number, part in enumerate(parts):
                row = {"file_id": file_id, "number": number, "owner": self.owner, "data": part}
                connection.execute(insert(file_parts).values(**row))

    def parts(self, file_id: str) -> Iterator[bytes]:
        """A file's bytes, part by part; none when it was deleted."""
        with self._reading() as connection:
            mine = file_parts.c.file_id == file_id
            numbers = select(file_parts.c.number).where(mine).order_by(file_parts.c.number)
            for number in connection.scalars(numbers).all():
                this = mine & (file_parts.c.number == number)
                yield bytes(connection.scalar(select(file_parts.c.data).where(this)) or b"")

    def delete_parts(self, file_id: str) -> None:
        """Delete a file's bytes, if they are there."""
        with self._beside_writers() as connection:
            connection.execute(delete(file_parts).where(file_parts.c.file_id == file_id))
