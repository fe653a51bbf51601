"""How files come into a store: part of a catalog transaction, so all of them do or none."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from rag_backend.errors import Conflict, NotFound
from rag_backend.knowledge.models import Attachment, StoreFile
from rag_backend.knowledge.sql.database import SQL_VARIABLES
from rag_backend.knowledge.sql.rows import unexpired
from rag_backend.knowledge.sql.tables import files, store_files
from rag_backend.knowledge.sql.versions import bump, next_sequence, take_garbage_over
from rag_backend.text import nfc

_DONE_WITH = ("failed", "cancelled")


def put_all(
    connection: Connection,
    store_id: str,
    wanted: Sequence[Attachment],
    batch_id: str | None = None,
    owner: str | None = None,
) -> list[StoreFile]:
    """Make files jobs of a store, in this order; the store's files as they are afterwards.

    One that failed or was cancelled is tried again. One that is indexed, or about to be, keeps its
    chunks and gets the attributes that were given.

    Args:
        owner: The backend, among several, whose jobs they become.

    Raises:
        NotFound: There is no such file.
        Conflict: A file is there already, cut in another way.
    """
    wanted = list({item.file_id: item for item in wanted}.values())
    ids = [item.file_id for item in wanted]
    named = _files(connection, ids)
    present = {row.file_id: row for row in _rows(connection, store_id, ids)}
    for item in wanted:
        if item.file_id in present:
            _check_chunking(present[item.file_id], item)
    under_way = {file_id for file_id, row in present.items() if row.status not in _DONE_WITH}
    kept = [item for item in wanted if item.file_id in under_way]
    jobs = [item for item in wanted if item.file_id not in under_way]
    if owner is not None:
        take_garbage_over(connection, store_id, [item.file_id for item in jobs], owner)
    values = {"batch_id": batch_id, "owner": owner}
    _queue(connection, store_id, jobs, _identities(jobs, named), present, values)
    _keep(connection, store_id, kept, present, batch_id)
    found = {row.file_id: row for row in _rows(connection, store_id, ids)}
    return [StoreFile(**found[file_id]._mapping) for file_id in ids]


def _files(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """{id: (file name, SHA-256)}; raises NotFound."""
    found: dict[str, tuple[str, str]] = {}
    for part in _parts(ids):
        query = select(files.c.id, files.c.filename, files.c.sha256)
        rows = connection.execute(query.where(files.c.id.in_(part), unexpired()))
        found |= {row.id: (row.filename, row.sha256) for row in rows}
    for file_id in ids:
        if file_id not in found:
            raise NotFound(f"No such file: {file_id}", param="file_id")
    return found


def _rows(connection: Connection, store_id: str, ids: Sequence[str]) -> Iterator[Row[Any]]:
    for part in _parts(ids):
        mine = (store_files.c.store_id == store_id) & store_files.c.file_id.in_(part)
        yield from connection.execute(select(store_files).where(mine)).all()


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(ids), SQL_VARIABLES):
        yield ids[at : at + SQL_VARIABLES]


def _check_chunking(row: Row[Any], item: Attachment) -> None:
    said = None if item.chunking is None else dict(item.chunking)
    if row.status in _DONE_WITH or said in (None, row.chunking or {}):
        return
    # The chunks of both would have the same ids: the old ones could not serve until then.
    raise Conflict(
        f"File {item.file_id} is in this vector store with another chunking strategy: upload it "
        "again under the same name, which replaces it once the new one is indexed, or delete it "
        "from the store first.",
        param="chunking_strategy",
    )


def _identities(jobs: Sequence[Attachment], named: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """{file id: identity}. Different files of one name that come together are different documents.

    They are told apart by their ids, since none of them is the other's new version.
    """
    found: dict[str, str] = {}
    namesakes: dict[str, list[str]] = defaultdict(list)
    for item in jobs:
        path = (item.attributes or {}).get("path")
        filename, _ = named[item.file_id]
        found[item.file_id] = item.identity or nfc(str(path or filename))
        if item.identity is None and not path:
            namesakes[found[item.file_id]].append(item.file_id)
    for ids in namesakes.values():
        if len({named[file_id][1] for file_id in ids}) > 1:
            found |= {file_id: file_id for file_id in ids}
    return found


def _queue(
    connection: Connection,
    store_id: str,
    jobs: Sequence[Attachment],
    identities: Mapping[str, str],
    present: Mapping[str, Row[Any]],
    alike: Mapping[str, str | None],
) -> None:
    first = next_sequence(connection, store_id, len(jobs)) if jobs else 1
    now = int(time.time())
    rows: list[dict[str, Any]] = []
    for sequence, item in enumerate(jobs, first):
        values = {
            "status": "in_progress",
            "sequence": sequence,
            "attributes": dict(item.attributes or {}),
            "identity": identities[item.file_id],
            "chunking": dict(item.chunking) if item.chunking else None,
            "error_code": None,
            "error_message": None,
            **alike,
        }
        if item.file_id in present:
            connection.execute(update(store_files).where(_key(store_id, item)).values(**values))
        else:
            rows.append({"store_id": store_id, "file_id": item.file_id, "created_at": now} | values)
    if rows:
        connection.execute(insert(store_files), rows)


def _keep(
    connection: Connection,
    store_id: str,
    kept: Sequence[Attachment],
    present: Mapping[str, Row[Any]],
    batch_id: str | None,
) -> None:
    changed = False
    for item in kept:
        values: dict[str, Any] = {"batch_id": batch_id}
        before = present[item.file_id].attributes
        if item.attributes is not None and dict(item.attributes) != before:
            values |= of_attributes(item.attributes)
            changed = True
        connection.execute(update(store_files).where(_key(store_id, item)).values(**values))
    if changed:
        bump(connection, store_id)


def of_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that new attributes of a file set: a new `path` becomes its identity."""
    values: dict[str, Any] = {"attributes": dict(attributes)}
    if "path" in attributes:
        values["identity"] = nfc(str(attributes["path"]))
    return values


def _key(store_id: str, item: Attachment) -> Any:
    return (store_files.c.store_id == store_id) & (store_files.c.file_id == item.file_id)
