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

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update
from sqlalchemy.exc import OperationalError

from ingest.document import Chunk
from rag_backend.errors import Conflict, NotFound, StorageBroken, StorageFull
from rag_backend.knowledge.models import (
    FileRecord,
    FileStatus,
    Garbage,
    Store,
    StoredChunk,
    StoreFile,
    chunk_id,
)
from rag_backend.knowledge.tables import chunks, files, garbage, store_files, stores
from rag_backend.knowledge.text import question_key

_SQL_VARIABLES = 500
"""Values bound in one IN (...); SQLite's own limit is 32,766."""


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
        with _mapped_errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with _mapped_errors(), self._writing, self._engine.begin() as connection:
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
                _retire(connection, store_id, [file_id])
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
        """Delete a store with everything in it, except the files themselves."""
        store = self.store(store_id)
        with self._transaction() as connection:
            connection.execute(delete(chunks).where(chunks.c.store_id == store.id))
            connection.execute(delete(store_files).where(store_files.c.store_id == store.id))
            connection.execute(delete(stores).where(stores.c.id == store.id))
            _add_garbage_collection(connection, store)

    def swap_generation(self, store: Store, model: str, probe: bytes) -> None:
        """Serve the next generation of a rebuilt store; the old one becomes garbage."""
        with self._transaction() as connection:
            connection.execute(
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
            _add_garbage_collection(connection, store)

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
                        sequence=_next_sequence(connection, store_id),
                        created_at=int(time.time()),
                        **fresh,
                    )
                )
            elif status in ("failed", "cancelled"):
                again = {
                    "status": "in_progress",
                    "sequence": _next_sequence(connection, store_id),
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
            values["identity"] = str(attributes["path"])
        key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
        with self._transaction() as connection:
            connection.execute(update(store_files).where(key).values(**values))
            _bump(connection, store_id)

    def fail(self, store_id: str, file_id: str, code: str, message: str) -> None:
        """End a job with a reason; what an earlier version of the file left visible stays so."""
        key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
        with self._transaction() as connection:
            row = connection.execute(select(store_files).where(key)).one_or_none()
            if row is None:
                return
            failed = {"status": "failed", "error_code": code, "error_message": message}
            connection.execute(update(store_files).where(key).values(**failed))
            _retire_older_versions(connection, StoreFile(**row._mapping), ("failed",))

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
            if row is None or _is_outdated(connection, StoreFile(**row._mapping)):
                _discard(connection, store_id, [file_id])
                return False
            connection.execute(delete(chunks).where(_of_file(store_id, file_id)))
            if prepared:
                connection.execute(
                    insert(chunks),
                    [_chunk_values(store_id, file_id, i, c) for i, c in enumerate(prepared)],
                )
            size = sum(len(chunk.text.encode()) for chunk in prepared)
            done = {"status": "completed", "usage_bytes": size}
            connection.execute(update(store_files).where(key).values(**done))
            _retire_older_versions(connection, StoreFile(**row._mapping))
            _bump(connection, store_id)
        return True

    def detach(self, store_id: str, file_id: str) -> None:
        """Take a file out of a store; its bytes stay. Raises NotFound."""
        self.store_file(store_id, file_id)
        with self._transaction() as connection:
            _retire(connection, store_id, [file_id])

    # Chunks

    def visible_chunks(self, store_id: str, ids: Iterable[str]) -> dict[str, StoredChunk]:
        """Those of the chunk ids that belong to completed files, by id."""
        wanted: dict[str, set[int]] = {}
        for listed in ids:
            file_id, _, ordinal = listed.rpartition(":")
            wanted.setdefault(file_id, set()).add(int(ordinal))
        found: dict[str, StoredChunk] = {}
        with self._reading() as connection:
            for file_id, ordinals in wanted.items():
                query = _visible(store_id).where(
                    chunks.c.file_id == file_id, chunks.c.ordinal.in_(ordinals)
                )
                for row in connection.execute(query):
                    chunk = _stored_chunk(row)
                    found[chunk.id] = chunk
        return found

    def file_chunks(self, store_id: str, file_id: str) -> list[StoredChunk]:
        """All chunks of a completed file, in order."""
        query = _visible(store_id).where(chunks.c.file_id == file_id).order_by(chunks.c.ordinal)
        with self._reading() as connection:
            return [_stored_chunk(row) for row in connection.execute(query)]

    def curated(self, store_id: str, question: str) -> StoredChunk | None:
        """The row of a question/answer sheet whose question is the same, if there is one."""
        query = (
            _visible(store_id)
            .where(chunks.c.question_key == question_key(question))
            .order_by(store_files.c.created_at.desc(), chunks.c.ordinal)
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _stored_chunk(row)

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


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        reason = str(error.orig)
        if "full" in reason or "disk I/O" in reason:
            raise StorageFull(
                "The disk that holds DATA_DIR is full: free some space, then try again."
            ) from error
        raise StorageBroken(f"The catalog in DATA_DIR cannot be used: {reason}.") from error


def _next_sequence(connection: Connection, store_id: str) -> int:
    newest = select(func.max(store_files.c.sequence)).where(store_files.c.store_id == store_id)
    return int(connection.scalar(newest) or 0) + 1


def _versions(file: StoreFile, statuses: Sequence[FileStatus]) -> Any:
    """Query for other files of the same store and identity in one of the statuses."""
    return select(store_files.c.file_id).where(
        store_files.c.store_id == file.store_id,
        store_files.c.identity == file.identity,
        store_files.c.file_id != file.file_id,
        store_files.c.status.in_(statuses),
    )


def _is_outdated(connection: Connection, file: StoreFile) -> bool:
    later = _versions(file, ("completed",)).where(store_files.c.sequence > file.sequence)
    return connection.execute(later).first() is not None


def _retire_older_versions(
    connection: Connection,
    current: StoreFile,
    statuses: Sequence[FileStatus] = ("completed", "failed"),
) -> None:
    older = _versions(current, statuses).where(store_files.c.sequence < current.sequence)
    _discard(connection, current.store_id, connection.scalars(older).all())


def _discard(connection: Connection, store_id: str, file_ids: Sequence[str]) -> None:
    """Retire files from a store, and delete those that no other store holds."""
    _retire(connection, store_id, file_ids)
    for file_id in file_ids:
        held = select(func.count()).where(store_files.c.file_id == file_id)
        if not connection.scalar(held):
            connection.execute(delete(files).where(files.c.id == file_id))
            connection.execute(insert(garbage).values(kind="bytes", file_id=file_id))


def _retire(connection: Connection, store_id: str, file_ids: Sequence[str]) -> None:
    """Remove files from a store's catalog, and note that their postings must go."""
    if not file_ids:
        return
    for file_id in file_ids:
        connection.execute(delete(chunks).where(_of_file(store_id, file_id)))
        key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
        connection.execute(delete(store_files).where(key))
        connection.execute(
            insert(garbage).values(kind="postings", store_id=store_id, file_id=file_id)
        )
    _bump(connection, store_id)


def _bump(connection: Connection, store_id: str) -> None:
    connection.execute(
        update(stores)
        .where(stores.c.id == store_id)
        .values(revision=stores.c.revision + 1, last_active_at=int(time.time()))
    )


def _add_garbage_collection(connection: Connection, store: Store) -> None:
    connection.execute(
        insert(garbage).values(kind="collection", store_id=store.id, collection=store.collection)
    )


def _of_file(store_id: str, file_id: str) -> Any:
    return (chunks.c.store_id == store_id) & (chunks.c.file_id == file_id)


def _chunk_values(store_id: str, file_id: str, ordinal: int, chunk: Chunk) -> dict[str, Any]:
    return {
        "store_id": store_id,
        "file_id": file_id,
        "ordinal": ordinal,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "page": chunk.page,
        "heading_path": list(chunk.heading_path),
        "question": chunk.question,
        "answer": chunk.answer,
        "question_key": question_key(chunk.question) if chunk.question else None,
    }


def _visible(store_id: str) -> Any:
    return (
        select(chunks, files.c.filename, store_files.c.attributes)
        .join(
            store_files,
            (store_files.c.store_id == chunks.c.store_id)
            & (store_files.c.file_id == chunks.c.file_id),
        )
        .join(files, files.c.id == chunks.c.file_id)
        .where(chunks.c.store_id == store_id, store_files.c.status == "completed")
    )


def _stored_chunk(row: Row[Any]) -> StoredChunk:
    return StoredChunk(
        id=chunk_id(row.file_id, row.ordinal),
        file_id=row.file_id,
        ordinal=row.ordinal,
        filename=row.filename,
        text=row.text,
        start=row.start,
        end=row.end,
        page=row.page,
        heading_path=tuple(row.heading_path),
        question=row.question,
        answer=row.answer,
        attributes=row.attributes,
    )
