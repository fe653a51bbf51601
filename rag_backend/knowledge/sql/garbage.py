"""What must still disappear from Chroma, tantivy or the disk."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select

from rag_backend.knowledge.models import Garbage
from rag_backend.knowledge.sql.database import SQL_VARIABLES, Database
from rag_backend.knowledge.sql.tables import garbage


class GarbageTable(Database):
    """Garbage."""

    def list_garbage(self) -> list[Garbage]:
        """Everything that must still go, oldest first."""
        with self._reading() as connection:
            query = select(garbage).order_by(garbage.c.id)
            return [Garbage(**row._mapping) for row in connection.execute(query)]

    def forget_garbage(self, ids: Sequence[int]) -> None:
        """It is gone."""
        with self._writing() as connection:
            for at in range(0, len(ids), SQL_VARIABLES):
                part = ids[at : at + SQL_VARIABLES]
                connection.execute(delete(garbage).where(garbage.c.id.in_(part)))
