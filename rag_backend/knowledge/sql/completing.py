"""How files become visible: part of a catalog transaction.

Nearly all files of a group are the only version of themselves: these take a few statements all
together. The others, of which an earlier version goes or a later one has come, take their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from ingest.document import Chunk
from rag_backend.knowledge.models import Completion, Store, StoreFile
from rag_backend.knowledge.sql.database import SQL_VARIABLES
from rag_backend.knowledge.sql.rows import chunk_values
from rag_backend.knowledge.sql.tables import chunks, garbage, store_files, stores
from rag_backend.knowledge.sql.versions import (
    add_garbage_collection,
    add_garbage_postings,
    discard,
    has_garbage_postings,
    is_outdated,
    retire_older_versions,
)

Prepared = tuple[str, str, Collection[Chunk]]
"""(store id, file id, chunks)."""
Place = tuple[str, str]
"""(store id, file id)."""

_ROWS = 1000
"""Chunks in one statement: a file may have more than fit into memory."""


def complete_all(
    connection: Connection,
    prepared: Sequence[Prepared],
    owner: str | None,
    collections: Mapping[Place, str],
) -> list[Completion]:
    """See `StoreFileTable.complete_files`; `owner` is this backend among several, or None."""
    if owner is None:
        return _complete_all(connection, prepared)
    found = _not_ours(connection, [item[:2] for item in prepared], owner, collections)
    mine = [item for item in prepared if item[:2] not in found]
    done = zip(mine, _complete_all(connection, mine), strict=True)
    found |= {item[:2]: outcome for item, outcome in done}
    return [found[item[:2]] for item in prepared]


def _complete_all(connection: Connection, prepared: Sequence[Prepared]) -> list[Completion]:
    simple: set[tuple[str, str]] = set()
    for store_id in dict.fromkeys(item[0] for item in prepared):
        ids = [item[1] for item in prepared if item[0] == store_id]
        for at in range(0, len(ids), SQL_VARIABLES):
            part = ids[at : at + SQL_VARIABLES]
            simple.update(
                (store_id, file_id) for file_id in _only_versions(connection, store_id, part)
            )
    _show(connection, [item for item in prepared if item[:2] in simple])
    return [
        "completed" if item[:2] in simple else _complete(connection, *item) for item in prepared
    ]


def _not_ours(
    connection: Connection, places: Sequence[Place], owner: str, collections: Mapping[Place, str]
) -> dict[Place, Completion]:
    """What other backends have done to jobs meanwhile: took them over, or rebuilt their stores."""
    found: dict[Place, Completion] = {}
    for store_id in dict.fromkeys(place[0] for place in places):
        row = connection.execute(select(stores).where(stores.c.id == store_id)).one_or_none()
        served = None if row is None else Store(**row._mapping).collection
        ids = [file_id for other, file_id in places if other == store_id]
        owners: dict[str, str | None] = {}
        for at in range(0, len(ids), SQL_VARIABLES):
            some = store_files.c.file_id.in_(ids[at : at + SQL_VARIABLES])
            query = select(store_files.c.file_id, store_files.c.owner)
            rows = connection.execute(query.where(store_files.c.store_id == store_id, some))
            owners |= {row.file_id: row.owner for row in rows}
        written = {collections.get((store_id, file_id), served) for file_id in ids}
        if served is None:  # the store was deleted, and what it had: this came after it
            for collection in written - {None}:
                add_garbage_collection(connection, store_id, str(collection))
        for file_id in ids:
            place = store_id, file_id
            if owners.get(file_id, owner) != owner:
                found[place] = "gone"
            elif file_id in owners and collections.get(place, served) != served:
                found[place] = "stale"
    return found


def _only_versions(connection: Connection, store_id: str, file_ids: Sequence[str]) -> set[str]:
    """Those of the files that are in progress, were never removed, and have no other version."""
    mine = store_files.c.store_id == store_id
    query = select(store_files.c.file_id, store_files.c.identity).where(
        mine, store_files.c.file_id.in_(file_ids), store_files.c.status == "in_progress"
    )
    identities = {row.file_id: row.identity for row in connection.execute(query)}
    query = (
        select(store_files.c.identity)
        .where(mine, store_files.c.identity.in_(set(identities.values())))
        .group_by(store_files.c.identity)
        .having(func.count() == 1)
    )
    alone = set(connection.scalars(query))
    listed = select(garbage.c.file_id).where(
        garbage.c.kind == "postings",
        garbage.c.store_id == store_id,
        garbage.c.file_id.in_(file_ids),
    )
    removed = set(connection.scalars(listed))
    return {id for id, identity in identities.items() if identity in alone} - removed


def _complete(
    connection: Connection, store_id: str, file_id: str, prepared: Collection[Chunk]
) -> Completion:
    """One file, whatever became of it meanwhile."""
    key = (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
    row = connection.execute(select(store_files).where(key)).one_or_none()
    if row is None or row.status != "in_progress":
        if row is None or row.status != "completed":
            add_garbage_postings(connection, store_id, file_id)
        return "gone"
    file = StoreFile(**row._mapping)
    if has_garbage_postings(connection, store_id, file_id):
        return "stale"
    if is_outdated(connection, file):
        discard(connection, store_id, [file_id])
        return "gone"
    _show(connection, [(store_id, file_id, prepared)])
    retire_older_versions(connection, file)
    return "completed"


def _show(connection: Connection, prepared: Sequence[Prepared]) -> None:
    """Chunks into the catalog, and the files completed."""
    if not prepared:
        return
    sizes: dict[tuple[str, str], int] = {}
    rows = _rows(prepared, sizes)
    gone = delete(chunks).where(
        chunks.c.store_id == bindparam("store"), chunks.c.file_id == bindparam("file")
    )
    connection.execute(gone, [{"store": item[0], "file": item[1]} for item in prepared])
    while part := list(islice(rows, _ROWS)):
        connection.execute(insert(chunks), part)
    # The revision that this transaction ends in (`bump`): by it other backends find what is new.
    revision = select(stores.c.revision + 1).where(stores.c.id == bindparam("store"))
    done = (
        update(store_files)
        .where(store_files.c.store_id == bindparam("store"))
        .where(store_files.c.file_id == bindparam("file"))
        .values(status="completed", usage_bytes=bindparam("size"), shown=revision.scalar_subquery())
    )
    values = [{"store": key[0], "file": key[1], "size": size} for key, size in sizes.items()]
    connection.execute(done, values)


def _rows(
    prepared: Sequence[Prepared], sizes: dict[tuple[str, str], int]
) -> Iterator[dict[str, Any]]:
    """Rows of `chunks`; notes each file's bytes of text in `sizes`."""
    for store_id, file_id, made in prepared:
        size = 0
        for ordinal, chunk in enumerate(made):
            size += len(chunk.text.encode())
            yield chunk_values(store_id, file_id, ordinal, chunk)
        sizes[store_id, file_id] = size
