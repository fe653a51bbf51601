"""What a filtered search asks of the catalog: many files at once, and little of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Text, cast, func, select

from rag_backend.knowledge.models import SearchableFile
from rag_backend.knowledge.sql.database import SQL_VARIABLES, Database
from rag_backend.knowledge.sql.tables import chunks, store_files


class SearchableTable(Database):
    """Completed files as a filter sees them."""

    def searchable_files(self, store_id: str) -> list[SearchableFile]:
        """The completed files of a store, in no order; fast for tens of thousands of them."""
        # As text: equal attributes, which many files may have, are parsed once.
        attributes = cast(store_files.c.attributes, Text)
        query = select(
            store_files.c.file_id, store_files.c.sequence, store_files.c.created_at, attributes
        ).where(store_files.c.store_id == store_id, store_files.c.status == "completed")
        parsed: dict[str, Any] = {}
        found: list[SearchableFile] = []
        with self._reading() as connection:
            for file_id, sequence, created_at, text in connection.execute(query):
                known = parsed.get(text)
                if known is None:
                    known = parsed[text] = orjson.loads(text)
                found.append(SearchableFile(file_id, f"{sequence}.{created_at}", known))
        return found

    def chunks_of(self, store_id: str, file_ids: Sequence[str]) -> dict[str, int]:
        """{file id: number of visible chunks}, of these files; those without any are absent."""
        found: dict[str, int] = {}
        with self._reading() as connection:
            for at in range(0, len(file_ids), SQL_VARIABLES):
                part = chunks.c.file_id.in_(file_ids[at : at + SQL_VARIABLES])
                query = select(chunks.c.file_id, func.count()).group_by(chunks.c.file_id)
                rows = connection.execute(query.where(chunks.c.store_id == store_id, part))
                found.update((row[0], row[1]) for row in rows)
        return found
