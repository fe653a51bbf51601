"""Vector stores in the catalog: their names, generations, and what they have learnt."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from rag_backend.errors import Conflict, NotFound
from rag_backend.knowledge.models import Fusion, Store, new_id
from rag_backend.knowledge.sql.batches import forget_batches
from rag_backend.knowledge.sql.database import Database
from rag_backend.knowledge.sql.tables import chunks, fusion_weights, store_files, stores
from rag_backend.knowledge.sql.versions import add_garbage_collection, at_work, bump


class StoreTable(Database):
    """Vector stores."""

    def create_store(
        self,
        name: str,
        metadata: Mapping[str, str],
        description: str | None = None,
        expires_after_days: int | None = None,
    ) -> Store:
        """Create an empty store; raises Conflict when the name is taken."""
        now = int(time.time())
        store_id = new_id("vs_")
        with self._writing() as connection:
            _check_free(connection, name)
            connection.execute(
                insert(stores).values(
                    id=store_id,
                    name=name,
                    created_at=now,
                    last_active_at=now,
                    metadata=dict(metadata),
                    description=description,
                    expires_after_days=expires_after_days,
                )
            )
        return self.store(store_id)

    def store(self, id_or_name: str) -> Store:
        """A store by id or by name; raises NotFound."""
        with self._reading() as connection:
            row = connection.execute(
                select(stores)
                .where((stores.c.id == id_or_name) | (stores.c.name == id_or_name))
                .order_by((stores.c.id == id_or_name).desc())
                .limit(1)
            ).one_or_none()
        if row is None:
            raise NotFound(f"No such vector store: {id_or_name}", param="vector_store_id")
        return Store(**row._mapping)

    def list_stores(self) -> list[Store]:
        """All stores, oldest first."""
        with self._reading() as connection:
            query = select(stores).order_by(stores.c.created_at, stores.c.id)
            return [Store(**row._mapping) for row in connection.execute(query)]

    def update_store(self, store_id: str, **values: Any) -> Store:
        """Set columns of a store; raises NotFound, or Conflict when the new name is taken."""
        name = values.get("name")
        with self._writing() as connection:
            if name is not None:
                _check_free(connection, name, store_id)
            connection.execute(update(stores).where(stores.c.id == store_id).values(**values))
        return self.store(store_id)

    def delete_store(self, store_id: str) -> None:
        """Delete a store with everything in it, except the files themselves; raises NotFound."""
        with self._writing() as connection:
            row = connection.execute(select(stores).where(stores.c.id == store_id)).one_or_none()
            if row is None:
                raise NotFound(f"No such vector store: {store_id}", param="vector_store_id")
            store = Store(**row._mapping)
            writing = connection.scalars(at_work(store_id)).all()
            connection.execute(delete(chunks).where(chunks.c.store_id == store_id))
            connection.execute(delete(store_files).where(store_files.c.store_id == store_id))
            connection.execute(delete(fusion_weights).where(fusion_weights.c.store_id == store_id))
            forget_batches(connection, store_id)
            connection.execute(delete(stores).where(stores.c.id == store_id))
            add_garbage_collection(connection, store_id, store.collection, writing)
            if store.rebuilding:
                next_one = store.next_collection
                add_garbage_collection(connection, store_id, next_one, [store.rebuilder])

    def set_encoder(self, store_id: str, model: str, probe: bytes) -> Store:
        """Remember which encoder a store's first vectors come from; the store as it is then.

        Raises NotFound. Another encoder may have been first.
        """
        first = (stores.c.id == store_id) & stores.c.embedding_probe.is_(None)
        values = {"embedding_model": model, "embedding_probe": probe}
        with self._writing() as connection:
            connection.execute(update(stores).where(first).values(**values))
        return self.store(store_id)

    def begin_rebuild(self, store_id: str) -> Store:
        """A store is to be rebuilt, by this backend unless another one does it; NotFound."""
        idle = (stores.c.id == store_id) & ~stores.c.rebuilding
        values = {"rebuilding": True, "rebuilder": self.owner}
        with self._writing() as connection:
            connection.execute(update(stores).where(idle).values(**values))
        return self.store(store_id)

    def swap_generation(
        self, store: Store, model: str, probe: bytes, revision: int | None = None
    ) -> bool:
        """Serve the next generation of a rebuilt store; the old one becomes garbage.

        A store that was deleted meanwhile leaves the next one as garbage.

        Args:
            revision: The store's, when what was rebuilt was listed; None: whatever it was.

        Returns:
            False when another backend has changed the store since: nothing was swapped.
        """
        with self._writing() as connection:
            row = connection.execute(select(stores).where(stores.c.id == store.id)).one_or_none()
            if row is not None and row.generation != store.generation:
                return True  # another backend, which took this one for dead, was first
            if row is not None and revision not in (None, row.revision):
                return False
            writing = connection.scalars(at_work(store.id)).all()
            swapped = connection.execute(
                update(stores)
                .where(stores.c.id == store.id)
                .values(
                    generation=store.generation + 1,
                    revision=stores.c.revision + 1,
                    rebuilding=False,
                    rebuilder=None,
                    embedding_model=model,
                    embedding_probe=probe,
                )
            )
            gone = store.collection if swapped.rowcount else store.next_collection
            add_garbage_collection(connection, store.id, gone, writing)
        return True

    def fusion(self, store: Store) -> Fusion:
        """What the store has learnt about the collection that it serves now."""
        mine = fusion_weights.c.store_id == store.id
        query = select(fusion_weights).where(mine, fusion_weights.c.collection == store.collection)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return Fusion(store.collection, 0, {})
        return Fusion(row.collection, row.learnt_from, row.dense_weight)

    def set_fusion(self, store_id: str, learnt: Fusion) -> None:
        """Remember what a store has learnt; nothing happens when the store is gone."""
        mine = fusion_weights.c.store_id == store_id
        with self._writing() as connection:
            connection.execute(delete(fusion_weights).where(mine))
            if connection.scalar(select(stores.c.id).where(stores.c.id == store_id)):
                connection.execute(
                    insert(fusion_weights).values(
                        store_id=store_id,
                        collection=learnt.collection,
                        learnt_from=learnt.learnt_from,
                        dense_weight=dict(learnt.dense_weight),
                    )
                )
                bump(connection, store_id)


def _check_free(connection: Connection, name: str, own_id: str | None = None) -> None:
    """Names work wherever ids do, so no two stores share one."""
    holder = connection.scalar(select(stores.c.id).where(stores.c.name == name))
    if holder is not None and holder != own_id:
        raise Conflict(
            f"A vector store named '{name}' exists already ({holder}): use that one, or choose "
            "another name.",
            param="name",
        )
