"""What goes when its time has come: files, and the content of stores that nobody used."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sqlalchemy import delete, func, select, update

from rag_backend.knowledge.models import SECONDS_A_DAY, Store, StoreFile
from rag_backend.knowledge.sql.database import Database
from rag_backend.knowledge.sql.tables import chunks, files, fusion_weights, store_files, stores
from rag_backend.knowledge.sql.versions import add_garbage_collection, at_work

_EXPIRED = {
    "status": "cancelled",
    "error_code": "vector_store_expired",
    "error_message": "The vector store expired before this file was indexed: it is indexed when "
    "the store's `expires_after` changes.",
}
"""What becomes of a job of an expired store; by its code it is told from one that was cancelled."""


class ExpiryTable(Database):
    """Expiry of files and stores. Times are Unix seconds."""

    def expired_files(self, now: int) -> list[str]:
        """Ids of files whose time has come."""
        with self._reading() as connection:
            query = select(files.c.id).where(files.c.expires_at <= now)
            return list(connection.scalars(query))

    def next_file_expiry(self) -> int | None:
        """When the next file expires."""
        with self._reading() as connection:
            first: int | None = connection.scalar(select(func.min(files.c.expires_at)))
        return first

    def note_use(self, used: Mapping[str, int]) -> None:
        """Stores were searched, at these times; no visible change, so no new revision."""
        with self._writing() as connection:
            for store_id, at in used.items():
                mine = (stores.c.id == store_id) & (stores.c.last_active_at < at)
                alive = mine & stores.c.expired_at.is_(None)
                connection.execute(update(stores).where(alive).values(last_active_at=at))

    def expire_stores(self, now: int) -> list[Store]:
        """Take the content out of stores that were not used for too long; which these were.

        The store and the list of its files stay, so that they can be indexed again.
        """
        due = (
            stores.c.expires_after_days.is_not(None)
            & stores.c.expired_at.is_(None)
            & stores.c.rebuilding.is_(False)  # its turn comes when that is done
            & (stores.c.last_active_at + stores.c.expires_after_days * SECONDS_A_DAY <= now)
        )
        with self._reading() as connection:
            if connection.execute(select(stores.c.id).where(due)).first() is None:
                return []
        with self._writing() as connection:
            gone = [Store(**row._mapping) for row in connection.execute(select(stores).where(due))]
            for store in gone:
                mine = store_files.c.store_id == store.id
                writing = connection.scalars(at_work(store.id)).all()
                connection.execute(delete(chunks).where(chunks.c.store_id == store.id))
                connection.execute(
                    delete(fusion_weights).where(fusion_weights.c.store_id == store.id)
                )
                connection.execute(update(store_files).where(mine).values(usage_bytes=0))
                waiting = mine & (store_files.c.status == "in_progress")
                connection.execute(update(store_files).where(waiting).values(_EXPIRED))
                add_garbage_collection(connection, store.id, store.collection, writing)
                connection.execute(
                    update(stores)
                    .where(stores.c.id == store.id)
                    .values(
                        expired_at=store.expires_at,
                        generation=store.generation + 1,
                        revision=stores.c.revision + 1,
                        embedding_model=None,
                        embedding_probe=None,
                    )
                )
        return gone

    def set_expiry(self, store_id: str, days: int | None) -> list[StoreFile]:
        """Let a store expire after so many days without use, from now on, or never.

        One that has expired comes back: its files become jobs, which are returned, those too that
        were jobs when it expired.
        """
        interrupted = (store_files.c.status == _EXPIRED["status"]) & (
            store_files.c.error_code == _EXPIRED["error_code"]
        )
        served = (store_files.c.status == "completed") | interrupted
        mine = (store_files.c.store_id == store_id) & served
        with self._writing() as connection:
            this = stores.c.id == store_id
            was = connection.scalar(select(stores.c.expired_at).where(this))
            values = {"expires_after_days": days, "expired_at": None}
            connection.execute(
                update(stores).where(this).values(**values, last_active_at=int(time.time()))
            )
            if was is None:
                return []
            job = {"status": "in_progress", "error_code": None, "error_message": None}
            connection.execute(update(store_files).where(mine).values(**job, owner=self.owner))
            again = select(store_files).where(
                store_files.c.store_id == store_id, store_files.c.status == "in_progress"
            )
            rows = connection.execute(again).all()
        return [StoreFile(**row._mapping) for row in rows]
