"""Our records as OpenAI's JSON objects, and lists of them in pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from ingest.chunking import StaticSize
from rag_backend.api.shapes import (
    BatchObject,
    ChunkContent,
    ChunkingObject,
    Deleted,
    FileCounts,
    FileError,
    FileObject,
    Page,
    RebuildObject,
    SearchResult,
    StaticSizes,
    StoreFileObject,
    StoreObject,
)
from rag_backend.knowledge.fusion import DENSE_WEIGHT
from rag_backend.knowledge.models import (
    Batch,
    FileRecord,
    FileStatus,
    Fusion,
    Listed,
    Progress,
    Store,
    StoredChunk,
    StoreFile,
    Window,
)
from rag_backend.knowledge.passages import Passage

T = TypeVar("T")
Shown = TypeVar("Shown", FileObject, StoreObject, StoreFileObject)
Gone = Literal["file", "vector_store.deleted", "vector_store.file.deleted"]
Order = Literal["asc", "desc"]


def file_object(file: FileRecord) -> FileObject:
    """OpenAI's `file`."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def store_object(
    store: Store,
    counts: Mapping[str, int],
    usage_bytes: int,
    fusion: Fusion,
    progress: Progress | None = None,
) -> StoreObject:
    """OpenAI's `vector_store`; with what the store has learnt added, and how a rebuild goes on."""
    by_status = _file_counts(counts)
    busy = progress is not None or by_status["in_progress"] > 0
    status: Literal["in_progress", "completed"] = "in_progress" if busy else "completed"
    days = store.expires_after_days
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_at,
        "name": store.name,
        "description": store.description,
        "usage_bytes": usage_bytes,
        "file_counts": by_status,
        "status": status if store.expired_at is None else "expired",
        "expires_after": None if days is None else {"anchor": "last_active_at", "days": days},
        "expires_at": store.expires_at,
        "last_active_at": store.last_active_at,
        "metadata": dict(store.metadata),
        "revision": store.revision,
        "embedding_model": store.embedding_model,
        "rebuild": _rebuild(progress),
        "fusion": {
            "dense_weight": {"default": DENSE_WEIGHT, **fusion.dense_weight},
            "learnt_from": fusion.learnt_from,
        },
    }


def _rebuild(progress: Progress | None) -> RebuildObject | None:
    if progress is None:
        return None
    return {"done": progress.done, "total": progress.total, "error": progress.error}


def _file_counts(counts: Mapping[str, int]) -> FileCounts:
    return {
        "in_progress": counts.get("in_progress", 0),
        "completed": counts.get("completed", 0),
        "failed": counts.get("failed", 0),
        "cancelled": counts.get("cancelled", 0),
        "total": sum(counts.values()),
    }


def batch_object(batch: Batch) -> BatchObject:
    """OpenAI's `vector_store.files_batch`."""
    counts = _file_counts(batch.counts)
    status: FileStatus = "completed"
    if batch.cancelled:
        status = "cancelled"
    elif counts["in_progress"]:
        status = "in_progress"
    elif counts["total"] and counts["failed"] == counts["total"]:
        status = "failed"
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at,
        "vector_store_id": batch.store_id,
        "status": status,
        "file_counts": counts,
    }


def store_file_object(file: StoreFile, readable: int | None = None) -> StoreFileObject:
    """OpenAI's `vector_store.file`. `readable` is the number of tokens that the encoder reads."""
    error: FileError | None = None
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
        "chunking_strategy": _chunking(file, readable),
        "attributes": dict(file.attributes),
    }


def _chunking(file: StoreFile, readable: int | None) -> ChunkingObject:
    """What was asked for; `other` stands for the document's structure, which `auto` follows.

    Windows larger than what the encoder reads are cut smaller: `effective` says how large they are.
    """
    if not file.chunking:
        return {"type": "other"}
    asked = StaticSize(**file.chunking)
    shown: ChunkingObject = {"type": "static", "static": _sizes(asked)}
    if readable is not None:
        shown["effective"] = _sizes(asked.within(readable))
    return shown


def _sizes(size: StaticSize) -> StaticSizes:
    return {
        "max_chunk_size_tokens": size.max_chunk_size_tokens,
        "chunk_overlap_tokens": size.chunk_overlap_tokens,
    }


def search_result(passage: Passage) -> SearchResult:
    """OpenAI's search result, with the place of its text and, inside it, of the best chunk."""
    chunk = passage.best
    return {
        "file_id": chunk.file_id,
        "filename": chunk.filename,
        "score": round(passage.score, 6),
        "attributes": dict(chunk.attributes),
        "content": [{"type": "text", "text": passage.text}],
        "page": passage.page,
        "heading_path": list(chunk.heading_path),
        "start": passage.start,
        "end": passage.end,
        "best": {"page": chunk.page, "start": chunk.start, "end": chunk.end},
    }


def chunk_content(chunk: StoredChunk) -> ChunkContent:
    """One part of a store file's content, with its place added."""
    return {
        "type": "text",
        "text": chunk.text,
        "page": chunk.page,
        "heading_path": list(chunk.heading_path),
        "start": chunk.start,
        "end": chunk.end,
    }


def deleted(object_id: str, kind: Gone) -> Deleted:
    """OpenAI's answer to a deletion."""
    return {"id": object_id, "object": kind, "deleted": True}


def page(listed: Listed[T], show: Callable[[T], Shown]) -> Page[Shown]:
    """A part of a list in OpenAI's form. The items' ids are what `after` and `before` take."""
    return shown_page([show(item) for item in listed.items], listed.has_more)


def shown_page(shown: list[Shown], has_more: bool) -> Page[Shown]:
    """`page` of items that are shown already."""
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": has_more,
    }


def window(limit: int, order: Order, after: str | None, before: str | None = None) -> Window:
    """What a list was asked for."""
    return Window(limit, order == "desc", after or None, before or None)
