"""Chunks as rows of the catalog, and back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Integer, Row, String, column, func, select, values

from ingest.document import Chunk
from rag_backend.knowledge.models import StoredChunk, chunk_id
from rag_backend.knowledge.sql.tables import chunks, files, store_files
from rag_backend.text import question_key


def of_file(store_id: str, file_id: str) -> Any:
    """Condition: chunks of this file in this store."""
    return (chunks.c.store_id == store_id) & (chunks.c.file_id == file_id)


def chunk_values(store_id: str, file_id: str, ordinal: int, chunk: Chunk) -> dict[str, Any]:
    """A row of `chunks`."""
    return {
        "store_id": store_id,
        "file_id": file_id,
        "ordinal": ordinal,
        "text": _storable(chunk.text),
        "start": chunk.start,
        "end": chunk.end,
        "page": chunk.page,
        "heading_path": [_storable(heading) for heading in chunk.heading_path],
        "question": chunk.question and _storable(chunk.question),
        "answer": chunk.answer and _storable(chunk.answer),
        "question_key": question_key(chunk.question or "") or None,
    }


def _storable(text: str) -> str:
    """Without NUL, which PostgreSQL refuses; as long as before, so that spans stay right."""
    return text.replace("\0", "\ufffd")


def unexpired() -> Any:
    """Condition: files whose time has not come, even if nobody has removed them yet."""
    return files.c.expires_at.is_(None) | (files.c.expires_at > int(time.time()))


def visible(store_id: str) -> Any:
    """Query for the chunks of the store's completed files, as `stored_chunk` takes them."""
    return (
        select(chunks, files.c.filename, store_files.c.attributes)
        .join(
            store_files,
            (store_files.c.store_id == chunks.c.store_id)
            & (store_files.c.file_id == chunks.c.file_id),
        )
        .join(files, files.c.id == chunks.c.file_id)
        .where(chunks.c.store_id == store_id, store_files.c.status == "completed", unexpired())
    )


def visible_at(store_id: str, places: Sequence[tuple[str, int]], dialect: str) -> Any:
    """`visible`, for these (file id, ordinal) alone.

    A join, because SQLite answers it by the primary key, and scans the store for a list of pairs.
    There the places are one parameter, in JSON, and the statement is always the same: to write
    hundreds of them into a new one takes SQLAlchemy longer than SQLite takes to find the chunks.
    """
    if dialect == "sqlite":
        listed = func.json_each(json.dumps(list(places))).table_valued("value")
        wanted = (
            select(
                func.json_extract(listed.c.value, "$[0]", type_=String).label("file_id"),
                func.json_extract(listed.c.value, "$[1]", type_=Integer).label("ordinal"),
            )
            .cte("wanted")
            .prefix_with("MATERIALIZED")  # else SQLite looks at every chunk for each place
        )
    else:
        wanted = (
            values(column("file_id", String), column("ordinal", Integer), name="wanted")
            .data(list(places))
            .cte("wanted")
        )
    return visible(store_id).join(
        wanted,
        (wanted.c.file_id == chunks.c.file_id) & (wanted.c.ordinal == chunks.c.ordinal),
    )


def stored_chunk(row: Row[Any]) -> StoredChunk:
    """A row of `visible` as a record."""
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
