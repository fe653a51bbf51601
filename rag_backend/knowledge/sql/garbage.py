"""What must still disappear from Chroma, tantivy or the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, delete, select

from rag_backend.knowledge.models import Garbage
from rag_backend.knowledge.sql.backends import free
from rag_backend.knowledge.sql.database import SQL_VARIABLES, Database
from rag_backend.knowledge.sql.tables import garbage

_AT_ONCE = 200
"""Pieces held at a time: a transaction is open meanwhile."""


class GarbageTable(Database):
    """Garbage."""

    def list_garbage(self) -> list[Garbage]:
        """Everything that must still go, oldest first."""
        with self._reading() as connection:
            query = select(garbage).order_by(garbage.c.id)
            return [Garbage(**row._mapping) for row in connection.execute(query)]

    def collect_garbage(self, remove: Callable[[list[Garbage]], list[int]]) -> None:
        """Have garbage removed, and forget it.

        Between backends each piece is one's alone while it is removed, and what another one may
        still be writing is left to that one.

        Args:
            remove: Removes what it is given, and returns the ids of what is gone.
        """
        if self.owner is None:
            if found := self.list_garbage():
                self.forget_garbage(remove(found))
            return
        mine = select(garbage).where(free(garbage.c.owner, self.owner)).order_by(garbage.c.id)
        mine, last = mine.limit(_AT_ONCE).with_for_update(skip_locked=True), 0
        while self.has_garbage(after=last):
            with self._beside_writers() as connection:
                held = connection.execute(mine.where(garbage.c.id > last))
                if not (found := [Garbage(**row._mapping) for row in held]):
                    return
                self._forget(connection, remove(found))
            last = found[-1].id

    def has_garbage(self, after: int = 0) -> bool:
        """Whether there is some (with a later id) that this backend may remove."""
        query = select(garbage.c.id).where(garbage.c.id > after).limit(1)
        if self.owner is not None:
            query = query.where(free(garbage.c.owner, self.owner))
        with self._reading() as connection:
            return connection.execute(query).first() is not None

    def forget_garbage(self, ids: Sequence[int]) -> None:
        """It is gone."""
        with self._writing() as connection:
            self._forget(connection, ids)

    def _forget(self, connection: Connection, ids: Sequence[int]) -> None:
        for at in range(0, len(ids), SQL_VARIABLES):
            part = ids[at : at + SQL_VARIABLES]
            connection.execute(delete(garbage).where(garbage.c.id.in_(part)))
