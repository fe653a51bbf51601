"""The catalog: the only truth about files, stores, their chunks and jobs.

Every method is one transaction, synchronous and thread-safe; callers in the event loop use
`asyncio.to_thread`. A job needs no table of its own: it is a store file that is `in_progress`.
What must disappear from Chroma, tantivy or the disk is written down as garbage in the transaction
that makes it invisible, so a crash in between leaves work to do and never an orphan.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from ingest.document import Chunk
from rag_backend.errors import Conflict, NotFound
from rag_backend.knowledge.models import (
    FileRecord,
    FileStatus,
    Fusion,
    Garbage,
    Store,
    StoredChunk,
    StoreFile,
)
from rag_backend.knowledge.rows import (
    chunk_values,
    of_file,
    stored_chunk,
    visible,
    visible_at,
)
from rag_backend.knowledge.tables import (
    chunks,
    files,
    fusion_weights,
    garbage,
    mapped_errors,
    store_files,
    stores,
)
from rag_backend.knowledge.versions import (
    add_garbage_collection,
    add_garbage_postings,
    bump,
    discard,
    is_outdated,
    keep_postings,
    next_sequence,
    retire,
    retire_older_versions,
)
from rag_backend.text import nfc, question_key

_SQL_VARIABLES = 500
"""Items in one IN (...); SQLite's own limit is 32,766 values."""


class Catalog:
    """Files, stores, store files, chunks and garbage, behind one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with mapped_errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with mapped_errors(), self._writing, self._engine.begin() as connection:
            yield connection

    # Files

    def add_file(self, file: FileRecord) -> None:
        """Record uploaded bytes that are already on disk."""
        with self._transaction() as connection:
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
        with self._transaction() as connection:
            holders = connection.scalars(
                select(store_files.c.store_id).where(store_files.c.file_id == file_id)
            ).all()
            for store_id in holders:
                retire(connection, store_id, [file_id])
            if not connection.execute(delete(files).where(files.c.id == file_id)).rowcount:
                raise NotFound(f"No such file: {file_id}", param="file_id")
            connection.execute(insert(garbage).values(kind="bytes", file_id=file_id))

    # Stores

    def create_store(self, name: str, metadata: Mapping[str, str]) -> Store:
        """Create an empty store; raises Conflict when the name is taken."""
        now = int(time.time())
        store_id = new_id("vs_")
        with self._transaction() as connection:
            if connection.scalar(select(stores.c.id).where(stores.c.name == name)):
                raise Conflict(f"A vector store named '{name}' exists already.", param="name")
            connection.execute(
                insert(stores).values(
                    id=store_id,
                    name=name,
                    created_at=now,
                    last_active_at=now,
                    metadata=dict(metadata),
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
        with self._transaction() as connection:
            taken = select(stores.c.id).where(stores.c.name == name, stores.c.id != store_id)
            if name is not None and connection.scalar(taken):
                raise Conflict(f"A vector store named '{name}' exists already.", param="name")
            connection.execute(update(stores).where(stores.c.id == store_id).values(**values))
        return self.store(store_id)

    def delete_store(self, store_id: str) -> None:
        """Delete a store with everything in it, except the files themselves; raises NotFound."""
        with self._transaction() as connection:
            row = connection.execute(select(stores).where(stores.c.id == store_id)).one_or_none()
            if row is None:
                raise NotFound(f"No such vector store: {store_id}", param="vector_store_id")
            store = Store(**row._mapping)
            connection.execute(delete(chunks).where(chunks.c.store_id == store_id))
            connection.execute(delete(store_files).where(store_files.c.store_id == store_id))
            connection.execute(delete(fusion_weights).where(fusion_weights.c.store_id == store_id))
            connection.execute(delete(stores).where(stores.c.id == store_id))
            add_garbage_collection(connection, store_id, store.collection)
            if store.rebuilding:
                add_garbage_collection(connection, store_id, store.next_collection)

    def swap_generation(self, store: Store, model: str, probe: bytes) -> None:
        """Serve the next generation of a rebuilt store; the old one becomes garbage.

        A store that was deleted meanwhile leaves the next one as garbage.
        """
        with self._transaction() as connection:
            swapped = connection.execute(
                update(stores)
                .where(stores.c.id == store.id)
                .values(
                    generation=store.generation + 1,
                    revision=stores.c.revision + 1,
                    rebuilding=False,
                    embedding_model=model,
                    embedding_probe=probe,
                )
            )
            gone = store.collection if swapped.rowcount else store.next_collection
            add_garbage_collection(connection, store.id, gone)

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
        with self._transaction() as connection:
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

    # Files in stores

    def attach(
        self, store_id: str, file_id: str, attributes: Mapping[str, Any], identity: str
    ) -> StoreFile:
        """Put a file into a store as a job; a completed or running one is left as it is."""
        with self._transaction() as connection:
            key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
            status = connection.scalar(select(store_files.c.status).where(key))
            fresh = {"attributes": dict(attributes), "identity": identity}
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
        return {row[0]: row[1] for row in rows}, sum(row[2] or 0 for row in rows)

    def set_attributes(self, store_id: str, file_id: str, attributes: Mapping[str, Any]) -> None:
        """Replace a store file's attributes; a new `path` becomes its identity."""
        values: dict[str, Any] = {"attributes": dict(attributes)}
        if "path" in attributes:
            values["identity"] = nfc(str(attributes["path"]))
        key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
        with self._transaction() as connection:
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
        with self._transaction() as connection:
            row = connection.execute(select(store_files).where(key)).one_or_none()
            if row is not None and row.status != "in_progress":
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

    def complete(self, store_id: str, file_id: str, prepared: Sequence[Chunk]) -> bool:
        """Make a file's chunks visible and retire the version that they replace, at once.

        The replaced version is another file with the same identity in the same store, attached
        before this one; its bytes go too when no other store holds it.

        Returns:
            False when the file was removed in the meantime, or a later version of it is complete
            already: nothing was made visible, and what was written elsewhere is garbage.
        """
        key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
        with self._transaction() as connection:
            row = connection.execute(select(store_files).where(key)).one_or_none()
            if row is None:
                add_garbage_postings(connection, store_id, file_id)
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
        with self._transaction() as connection:
            retire(connection, store_id, [file_id])

    # Chunks

    def visible_chunks(self, store_id: str, ids: Iterable[str]) -> dict[str, StoredChunk]:
        """Those of the chunk ids that belong to completed files, by id."""
        places = [(file_id, int(n)) for file_id, _, n in (item.rpartition(":") for item in ids)]
        found: dict[str, StoredChunk] = {}
        with self._reading() as connection:
            for at in range(0, len(places), _SQL_VARIABLES):
                query = visible_at(store_id, places[at : at + _SQL_VARIABLES])
                for row in connection.execute(query):
                    chunk = stored_chunk(row)
                    found[chunk.id] = chunk
        return found

    def count_chunks(self, store_id: str) -> int:
        """Number of visible chunks: as many as there are vectors, and postings."""
        query = select(func.count()).where(chunks.c.store_id == store_id)
        with self._reading() as connection:
            return int(connection.scalar(query) or 0)

    def chunk_places(self, store_id: str) -> Iterator[tuple[str, str, int]]:
        """(SHA-256 of the file, its id, ordinal) of every visible chunk, in no order."""
        query = (
            select(files.c.sha256, chunks.c.file_id, chunks.c.ordinal)
            .join(files, files.c.id == chunks.c.file_id)
            .where(chunks.c.store_id == store_id)
        )
        with self._reading() as connection:
            for row in connection.execute(query):
                yield row.sha256, row.file_id, row.ordinal

    def file_chunks(self, store_id: str, file_id: str) -> list[StoredChunk]:
        """All chunks of a completed file, in order."""
        query = visible(store_id).where(chunks.c.file_id == file_id).order_by(chunks.c.ordinal)
        with self._reading() as connection:
            return [stored_chunk(row) for row in connection.execute(query)]

    def curated(self, store_id: str, question: str) -> StoredChunk | None:
        """The row of a question/answer sheet whose question is the same, if there is one."""
        key = question_key(question)
        if not key:
            return None
        query = (
            visible(store_id)
            .where(chunks.c.question_key == key)
            .order_by(store_files.c.sequence.desc(), chunks.c.ordinal)
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else stored_chunk(row)

    # Garbage

    def list_garbage(self) -> list[Garbage]:
        """Everything that must still go, oldest first."""
        with self._reading() as connection:
            query = select(garbage).order_by(garbage.c.id)
            return [Garbage(**row._mapping) for row in connection.execute(query)]

    def forget_garbage(self, ids: Sequence[int]) -> None:
        """It is gone."""
        with self._transaction() as connection:
            for at in range(0, len(ids), _SQL_VARIABLES):
                part = ids[at : at + _SQL_VARIABLES]
                connection.execute(delete(garbage).where(garbage.c.id.in_(part)))


def new_id(prefix: str) -> str:
    """A random identifier in OpenAI's style."""
    return prefix + secrets.token_hex(12)
