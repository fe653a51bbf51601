"""Lists in parts: the database walks an index, so a part costs the same in a list of any length."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, select, tuple_

from rag_backend.errors import BadRequest
from rag_backend.knowledge.models import (
    FileRecord,
    FileStatus,
    Listed,
    Reach,
    Store,
    StoreFile,
    Window,
)
from rag_backend.knowledge.sql.batches import in_batch
from rag_backend.knowledge.sql.database import Database
from rag_backend.knowledge.sql.reaching import files_within, stores_within
from rag_backend.knowledge.sql.rows import unexpired
from rag_backend.knowledge.sql.tables import files, store_files, stores

_REMEMBERED = 4096
"""Ends of parts: whoever deletes what a list shows asks for the next part by an id that is gone."""

Place = tuple[int, Any]


class ListTable(Database):
    """Files, stores and store files in parts, by the time at which they came."""

    def __init__(self, engine: Engine, owner: str | None = None) -> None:
        super().__init__(engine, owner)
        self._ends: OrderedDict[tuple[str, str], Place] = OrderedDict()
        self._changing = threading.Lock()

    def page_files(
        self, window: Window, purpose: str | None = None, reach: Reach | None = None
    ) -> Listed[FileRecord]:
        """Files, optionally of one purpose; raises BadRequest for a cursor that is none."""
        keys = _reached(_FILES, files_within(reach), reach)
        query = select(files).where(unexpired(), *keys.within)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        with self._reading() as connection:
            rows, more = self._part(connection, query, keys, window)
        return Listed([FileRecord(**row._mapping) for row in rows], more)

    def page_stores(self, window: Window, reach: Reach | None = None) -> Listed[Store]:
        """Stores; raises BadRequest for a cursor that is none."""
        keys = _reached(_STORES, stores_within(reach), reach)
        query = select(stores).where(*keys.within)
        with self._reading() as connection:
            rows, more = self._part(connection, query, keys, window)
        return Listed([Store(**row._mapping) for row in rows], more)

    def page_store_files(
        self,
        store_id: str,
        window: Window,
        status: FileStatus | None = None,
        batch_id: str | None = None,
    ) -> Listed[StoreFile]:
        """A store's files, or those of one batch; raises BadRequest for a cursor that is none.

        A cursor may name a file that has another status by now.
        """
        query = select(store_files).where(store_files.c.store_id == store_id)
        query = query.join(files, files.c.id == store_files.c.file_id).where(unexpired())
        if batch_id is not None:
            query = in_batch(query, store_id, batch_id)
        if status is not None:
            query = query.where(store_files.c.status == status)
        with self._reading() as connection:
            keys = _store_file_keys(store_id)
            rows, more = self._part(connection, query, keys, window)
        return Listed([StoreFile(**row._mapping) for row in rows], more)

    def _part(
        self, connection: Connection, query: Select[Any], keys: _Keys, window: Window
    ) -> tuple[list[Row[Any]], bool]:
        """Rows in the order wanted, and whether there are more."""
        place = tuple_(*keys.place)
        # Backwards from `before`, unless the part begins at `after`.
        backwards = window.before is not None and window.after is None
        falling = window.newest_first is not backwards
        if window.after is not None:
            at = tuple_(*self._place(connection, keys, window.after, "after"))
            query = query.where(place < at if window.newest_first else place > at)
        if window.before is not None:
            at = tuple_(*self._place(connection, keys, window.before, "before"))
            query = query.where(place > at if window.newest_first else place < at)
        ordered = [column.desc() if falling else column.asc() for column in keys.place]
        rows = list(connection.execute(query.order_by(*ordered).limit(window.limit + 1)))
        part = rows[: window.limit]
        if backwards:
            part.reverse()
        self._remember(keys, part)
        return part, len(rows) > window.limit

    def _place(self, connection: Connection, keys: _Keys, cursor: str, name: str) -> Place:
        query = select(*keys.place).where(keys.id == cursor, *keys.within)
        row = connection.execute(query).one_or_none()
        if row is not None:
            return (row[0], row[1])
        with self._changing:
            place = self._ends.get((keys.list, cursor))
        if place is None:
            raise BadRequest(f"`{name}` names no item of this list: {cursor}", param=name)
        return place

    def _remember(self, keys: _Keys, part: list[Row[Any]]) -> None:
        with self._changing:
            for row in {id(row): row for row in (*part[:1], *part[-1:])}.values():
                found = row._mapping
                first, second = (found[column.name] for column in keys.place)
                self._ends[keys.list, found[keys.id.name]] = (first, second)
            while len(self._ends) > _REMEMBERED:
                self._ends.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Keys:
    """A list's name, the ids that its cursors are, what it is ordered by, and its owner."""

    list: str
    id: ColumnElement[Any]
    place: tuple[ColumnElement[Any], ColumnElement[Any]]
    within: tuple[ColumnElement[bool], ...] = ()


def _reached(keys: _Keys, within: list[Any], reach: Reach | None) -> _Keys:
    """The part of a list that is within reach: another list, whose cursors are its own."""
    if reach is None:
        return keys
    return replace(keys, list=f"{keys.list} of {reach.uploader}", within=tuple(within))


def _store_file_keys(store_id: str) -> _Keys:
    place = (store_files.c.created_at, store_files.c.sequence)
    return _Keys(store_id, store_files.c.file_id, place, (store_files.c.store_id == store_id,))


_FILES = _Keys("files", files.c.id, (files.c.created_at, files.c.id))
_STORES = _Keys("stores", stores.c.id, (stores.c.created_at, stores.c.id))
