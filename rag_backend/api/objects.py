"""Our records as OpenAI's JSON objects, and lists of them in pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from rag_backend.errors import BadRequest
from rag_backend.knowledge.fusion import DENSE_WEIGHT
from rag_backend.knowledge.models import FileRecord, Fusion, Store, StoredChunk, StoreFile
from rag_backend.knowledge.passages import Passage

T = TypeVar("T")
Order = Literal["asc", "desc"]


def file_object(file: FileRecord) -> dict[str, Any]:
    """OpenAI's `file`."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def store_object(
    store: Store, counts: Mapping[str, int], usage_bytes: int, fusion: Fusion
) -> dict[str, Any]:
    """OpenAI's `vector_store`, with what the store has learnt added."""
    names = ("in_progress", "completed", "failed", "cancelled")
    by_status = {name: counts.get(name, 0) for name in names}
    busy = store.rebuilding or by_status["in_progress"] > 0
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_at,
        "name": store.name,
        "usage_bytes": usage_bytes,
        "file_counts": by_status | {"total": sum(by_status.values())},
        "status": "in_progress" if busy else "completed",
        "expires_after": None,
        "expires_at": None,
        "last_active_at": store.last_active_at,
        "metadata": dict(store.metadata),
        "revision": store.revision,
        "embedding_model": store.embedding_model,
        "fusion": {
            "dense_weight": {"default": DENSE_WEIGHT, **fusion.dense_weight},
            "learnt_from": fusion.learnt_from,
        },
    }


def store_file_object(file: StoreFile) -> dict[str, Any]:
    """OpenAI's `vector_store.file`."""
    error = None
    if file.error_code is not None:
        error = {"code": file.error_code, "message": file.error_message}
    return {
        "id": file.file_id,
        "object": "vector_store.file",
        "created_at": file.created_at,
        "usage_bytes": file.usage_bytes,
        "vector_store_id": file.store_id,
        "status": file.status,
        "last_error": error,
        "chunking_strategy": {"type": "other"},
        "attributes": dict(file.attributes),
    }


def search_result(passage: Passage) -> dict[str, Any]:
    """OpenAI's search result, with the place of its text and, inside it, of the best chunk."""
    chunk = passage.best
    best = _place(chunk)
    return {
        "file_id": chunk.file_id,
        "filename": chunk.filename,
        "score": round(passage.score, 6),
        "attributes": dict(chunk.attributes),
        "content": [{"type": "text", "text": passage.text}],
        "page": passage.page,
        "heading_path": best.pop("heading_path"),
        "start": passage.start,
        "end": passage.end,
        "best": best,
    }


def chunk_content(chunk: StoredChunk) -> dict[str, Any]:
    """One part of a store file's content, with its place added."""
    return {"type": "text", "text": chunk.text, **_place(chunk)}


def _place(chunk: StoredChunk) -> dict[str, Any]:
    return {
        "page": chunk.page,
        "heading_path": list(chunk.heading_path),
        "start": chunk.start,
        "end": chunk.end,
    }


def deleted(object_id: str, kind: str) -> dict[str, Any]:
    """OpenAI's answer to a deletion."""
    return {"id": object_id, "object": f"{kind}.deleted", "deleted": True}


def page(
    records: Sequence[T],
    identify: Callable[[T], str],
    show: Callable[[T], dict[str, Any]],
    *,
    limit: int,
    order: Order,
    after: str | None = None,
    before: str | None = None,
) -> dict[str, Any]:
    """A page of OpenAI's list form, from records in ascending order.

    Raises:
        BadRequest: The cursor names no record of the list.
    """
    listed = list(records) if order == "asc" else list(reversed(records))
    ids = [identify(record) for record in listed]
    start = _position(ids, after, "after") + 1 if after else 0
    end = _position(ids, before, "before") if before else len(listed)
    window = listed[start:end]
    shown = window[:limit]
    return {
        "object": "list",
        "data": [show(record) for record in shown],
        "first_id": identify(shown[0]) if shown else None,
        "last_id": identify(shown[-1]) if shown else None,
        "has_more": len(window) > limit,
    }


def _position(ids: Sequence[str], cursor: str, param: str) -> int:
    try:
        return ids.index(cursor)
    except ValueError:
        raise BadRequest(f"`{param}` names no item of this list: {cursor}", param=param) from None
