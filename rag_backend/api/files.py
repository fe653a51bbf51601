"""`/v1/files`."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, File, Form, Query, UploadFile
from starlette.responses import FileResponse

from rag_backend.api.objects import Order, deleted, file_object, page
from rag_backend.api.parts import Backend

router = APIRouter(prefix="/v1/files")

_PART = 2**20  # bytes read from the upload at a time
Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]


@router.post("")
async def upload_file(
    backend: Backend,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[Purpose, Form()] = "user_data",
) -> dict[str, Any]:
    """Store a file's bytes."""

    async def parts() -> AsyncIterator[bytes]:
        while part := await file.read(_PART):
            yield part

    return file_object(await backend.library.upload(file.filename or "", purpose, parts()))


@router.get("")
async def list_files(
    backend: Backend,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Order = "desc",
    after: str | None = None,
) -> dict[str, Any]:
    """All files, newest first."""
    files = await asyncio.to_thread(backend.library.catalog.list_files, purpose)
    return page(files, lambda f: f.id, file_object, limit=limit, order=order, after=after)


@router.get("/{file_id}")
async def retrieve_file(file_id: str, backend: Backend) -> dict[str, Any]:
    """One file."""
    return file_object(await asyncio.to_thread(backend.library.catalog.file, file_id))


@router.delete("/{file_id}")
async def delete_file(file_id: str, backend: Backend) -> dict[str, Any]:
    """Delete a file everywhere."""
    await backend.library.delete_file(file_id)
    return deleted(file_id, "file")


@router.get("/{file_id}/content")
async def file_content(file_id: str, backend: Backend) -> FileResponse:
    """The bytes as they were uploaded, shown by a browser where it can (range requests work)."""
    file = await backend.library.file(file_id)
    media_type = mimetypes.guess_type(file.filename)[0] or "application/octet-stream"
    if media_type.startswith("text/") and media_type != "text/html":
        media_type = "text/plain"  # browsers save a CSV instead of showing it
    return FileResponse(
        backend.library.blobs.path(file_id),
        media_type=media_type,
        headers={
            "content-disposition": f"inline; filename*=UTF-8''{quote(file.filename)}",
            # A document is somebody's upload: its scripts must not run with our page's rights.
            "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; "
            "img-src data:",
            "x-content-type-options": "nosniff",
        },
    )
