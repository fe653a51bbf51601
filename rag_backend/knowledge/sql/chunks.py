"""Chunks in the catalog: what is visible, and where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import func, select

from rag_backend.knowledge.models import StoredChunk
from rag_backend.knowledge.sql.database import SQL_VARIABLES, Database
from rag_backend.knowledge.sql.rows import stored_chunk, visible, visible_at
from rag_backend.knowledge.sql.tables import chunks, files, store_files
from rag_backend.text import question_key


class ChunkTable(Database):
    """Chunks of completed files."""

    def visible_chunks(self, store_id: str, ids: Iterable[str]) -> dict[str, StoredChunk]:
        """Those of the chunk ids that belong to completed files, by id."""
        places = [(file_id, int(n)) for file_id, _, n in (item.rpartition(":") for item in ids)]
        found: dict[str, StoredChunk] = {}
        with self._reading() as connection:
            for at in range(0, len(places), SQL_VARIABLES):
                query = visible_at(store_id, places[at : at + SQL_VARIABLES])
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
