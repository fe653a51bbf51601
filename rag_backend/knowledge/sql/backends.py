"""Backends that share a catalog: who is alive, and who does what.

A job belongs to the backend in its column `owner`. A backend that has not been seen for
`DEAD_SECONDS` by the database's clock is taken for dead, and what it owned goes to whoever asks
first. One that was only asleep finds out when it wants to complete a job (`StoreFileTable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, extract, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as insert_or_update

from rag_backend.knowledge.models import Store, StoreFile
from rag_backend.knowledge.sql.database import SQL_VARIABLES, Database
from rag_backend.knowledge.sql.tables import (
    backends,
    file_parts,
    files,
    garbage,
    store_files,
    stores,
)

DEAD_SECONDS = 15.0
"""A heartbeat comes every second; a machine that is out of breath may miss ten."""
_FORGOTTEN_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Completed:
    """A completed file of a store.

    Attributes:
        sequence: Its place in the order of attachment, of which no other version has the same.
        owner: The backend that indexed it.
    """

    file_id: str
    sequence: int
    owner: str | None


def clock() -> Any:
    """The database's clock, in Unix seconds; goes on during a transaction."""
    return extract("epoch", func.clock_timestamp())


def alive() -> Any:
    """Query for the ids of the backends that were seen lately."""
    return select(backends.c.id).where(backends.c.seen_at > clock() - DEAD_SECONDS)


def free(owner: Any, me: str | None) -> Any:
    """Condition: what the column `owner` says is mine, or mine to take."""
    return or_(owner.is_(None), owner == me, owner.not_in(alive()))


class BackendTable(Database):
    """Backends. PostgreSQL only, but for what is claimed: one that is alone has it all."""

    def beat(self) -> None:
        """This backend is alive."""
        row = {"id": self.owner, "seen_at": clock()}
        stated = insert_or_update(backends).values(**row)
        with self._beside_writers() as connection:
            connection.execute(
                stated.on_conflict_do_update(index_elements=["id"], set_={"seen_at": clock()})
            )

    def inherit(self, before: str | None) -> None:
        """What this backend left undone in its last life, under another id, is its own now."""
        if before is None:
            return
        with self._writing() as connection:
            for owner in (
                store_files.c.owner,
                stores.c.rebuilder,
                stores.c.learner,
                garbage.c.owner,
            ):
                mine = update(owner.table).where(owner == before).values({owner: self.owner})
                connection.execute(mine)
            connection.execute(delete(backends).where(backends.c.id == before))

    def leave(self) -> None:
        """This backend stops: what it leaves undone is free at once."""
        with self._beside_writers() as connection:
            connection.execute(delete(backends).where(backends.c.id == self.owner))

    def count_backends(self) -> int:
        """How many are alive."""
        with self._reading() as connection:
            return int(connection.scalar(select(func.count()).select_from(alive().subquery())) or 0)

    def claim_jobs(self, own: bool = False) -> list[StoreFile]:
        """Unfinished jobs that nobody alive works on become this backend's; those are returned.

        Args:
            own: Return those too that are this backend's already (at its start, none of them runs).
        """
        query = select(store_files).where(store_files.c.status == "in_progress")
        query = query.order_by(store_files.c.created_at, store_files.c.file_id)
        if self.owner is None:
            with self._reading() as connection:
                return [StoreFile(**row._mapping) for row in connection.execute(query)]
        query = query.where(free(store_files.c.owner, self.owner))
        if not own:
            query = query.where(store_files.c.owner.is_distinct_from(self.owner))
        with self._reading() as connection:
            if connection.execute(query.limit(1)).first() is None:
                return []  # nearly always: no writer is waited for
        with self._writing() as connection:
            rows = [StoreFile(**row._mapping) for row in connection.execute(query)]
            places = [(row.store_id, row.file_id) for row in rows]
            key = tuple_(store_files.c.store_id, store_files.c.file_id)
            for at in range(0, len(places), SQL_VARIABLES):
                part = key.in_(places[at : at + SQL_VARIABLES])
                connection.execute(update(store_files).where(part).values(owner=self.owner))
        return [replace(row, owner=self.owner) for row in rows]

    def claim_rebuilds(self, own: bool = False) -> list[Store]:
        """Stores that are to be rebuilt, and that nobody alive rebuilds, become this backend's.

        Args:
            own: As with `claim_jobs`.
        """
        query = select(stores).where(stores.c.rebuilding)
        if self.owner is None:
            with self._reading() as connection:
                return [Store(**row._mapping) for row in connection.execute(query)]
        query = query.where(free(stores.c.rebuilder, self.owner))
        if not own:
            query = query.where(stores.c.rebuilder.is_distinct_from(self.owner))
        with self._reading() as connection:
            if connection.execute(query.limit(1)).first() is None:
                return []
        with self._writing() as connection:
            rows = [Store(**row._mapping) for row in connection.execute(query)]
            ids = [row.id for row in rows]
            mine = update(stores).where(stores.c.id.in_(ids)).values(rebuilder=self.owner)
            connection.execute(mine)
        return [replace(row, rebuilder=self.owner) for row in rows]

    def claim_learning(self, store_id: str) -> bool:
        """Whether this backend is to learn the store's weights: nobody alive does it already."""
        if self.owner is None:
            return True
        mine = stores.c.id == store_id, free(stores.c.learner, self.owner)
        with self._writing() as connection:
            claimed = connection.execute(update(stores).where(*mine).values(learner=self.owner))
        return bool(claimed.rowcount)

    def end_learning(self, store_id: str) -> None:
        """It is done, or given up: whoever wants to may be next."""
        if self.owner is None:
            return
        mine = stores.c.id == store_id, stores.c.learner == self.owner
        with self._writing() as connection:
            connection.execute(update(stores).where(*mine).values(learner=None))

    def revisions(self) -> dict[str, tuple[int, int]]:
        """{store id: (generation, revision)} of every store: what has changed since?"""
        query = select(stores.c.id, stores.c.generation, stores.c.revision)
        with self._reading() as connection:
            return {row.id: (row.generation, row.revision) for row in connection.execute(query)}

    def completed(self, store_id: str, after: int | None = None) -> list[Completed]:
        """The completed files of a store, in no order.

        Args:
            after: Only those that later revisions of the store made visible, newest first; takes no
                longer in a large store.
        """
        query = select(store_files.c.file_id, store_files.c.sequence, store_files.c.owner).where(
            store_files.c.store_id == store_id, store_files.c.status == "completed"
        )
        if after is not None:
            query = query.where(store_files.c.shown > after)
            query = query.order_by(store_files.c.shown.desc(), store_files.c.sequence.desc())
        with self._reading() as connection:
            return [Completed(*row) for row in connection.execute(query)]

    def at_work_or_done(self, store_id: str) -> set[str]:
        """Files of a store that are completed, or that this backend indexes now."""
        mine = (store_files.c.status == "in_progress") & (store_files.c.owner == self.owner)
        query = select(store_files.c.file_id).where(
            store_files.c.store_id == store_id, or_(store_files.c.status == "completed", mine)
        )
        with self._reading() as connection:
            return set(connection.scalars(query))

    def known_files(self, file_ids: Sequence[str]) -> set[str]:
        """Those of the ids that are files."""
        found: set[str] = set()
        with self._reading() as connection:
            for at in range(0, len(file_ids), SQL_VARIABLES):
                some = files.c.id.in_(file_ids[at : at + SQL_VARIABLES])
                found.update(connection.scalars(select(files.c.id).where(some)))
        return found

    def forget_the_dead(self) -> None:
        """Parts of files whose upload died with its backend, and backends long gone."""
        dead = file_parts.c.owner.not_in(alive()) & (file_parts.c.owner != self.owner)
        lost = dead & file_parts.c.file_id.not_in(select(files.c.id))
        with self._writing() as connection:
            connection.execute(delete(file_parts).where(lost))
            connection.execute(
                delete(backends).where(backends.c.seen_at < clock() - _FORGOTTEN_SECONDS)
            )
