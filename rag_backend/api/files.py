"""`/v1/files`."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, File, Form, Query, Request, UploadFile

from rag_backend.api.objects import Order, deleted, file_object, page, window
from rag_backend.api.parts import Backend
from rag_backend.api.ranges import RangedFile
from rag_backend.errors import BadRequest, NotFound, UnsupportedFeature

router = APIRouter(prefix="/v1/files")

_PART = 2**20  # bytes read from the upload at a time
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"  # as OpenAI's SDKs send them
_FIELDS = frozenset(("file", "purpose", _ANCHOR, _SECONDS))
Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
Anchor = Literal["created_at"]


@router.post("")
async def upload_file(
    request: Request,
    backend: Backend,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[Purpose, Form()] = "user_data",
    anchor: Annotated[Anchor | None, Form(alias=_ANCHOR)] = None,
    seconds: Annotated[int | None, Form(alias=_SECONDS, ge=3600, le=2_592_000)] = None,
) -> dict[str, Any]:
    """Store a file's bytes, for good or until they expire."""
    if (anchor is None) is not (seconds is None):
        raise BadRequest(
            "`expires_after` needs both `anchor` and `seconds`.", param="expires_after"
        )
    for name in (await request.form()).keys() - _FIELDS:
        raise UnsupportedFeature(f"There is no form field `{name}`.", param=name)

    async def parts() -> AsyncIterator[bytes]:
        while part := await file.read(_PART):
            yield part

    stored = await backend.library.upload(file.filename or "", purpose, parts(), seconds)
    return file_object(stored)


@router.get("")
async def list_files(
    backend: Backend,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Order = "desc",
    after: str | None = None,
) -> dict[str, Any]:
    """Files, newest first."""
    wanted = window(limit, order, after)
    return page(
        await asyncio.to_thread(backend.library.catalog.page_files, wanted, purpose), file_object
    )


@router.get("/{file_id}")
async def retrieve_file(file_id: str, backend: Backend) -> dict[str, Any]:
    """One file."""
    return file_object(await asyncio.to_thread(backend.library.catalog.file, file_id))


@router.delete("/{file_id}")
async def delete_file(file_id: str, backend: Backend) -> dict[str, Any]:
    """Delete a file everywhere."""
    await backend.library.delete_file(file_id)
    return deleted(file_id, "file")  # OpenAI's name for it, without ".deleted"


@router.get("/{file_id}/content")
@router.head("/{file_id}/content", include_in_schema=False)
async def file_content(file_id: str, backend: Backend) -> RangedFile:
    """The bytes as they were uploaded, shown by a browser where it can (range requests work)."""
    file = await backend.library.file(file_id)
    media_type = mimetypes.guess_type(file.filename)[0] or "application/octet-stream"
    if media_type.startswith("text/") and media_type != "text/html":
        media_type = "text/plain"  # browsers save a CSV instead of showing it
    path = backend.library.blobs.path(file_id)
    try:
        found = await asyncio.to_thread(path.stat)
    except OSError as error:
        raise NotFound(f"No such file: {file_id}", param="file_id") from error
    return RangedFile(
        path,
        stat_result=found,
        media_type=media_type,
        headers={
            "content-disposition": f"inline; filename*=UTF-8''{quote(file.filename)}",
            # A document is somebody's upload: its scripts must not run with our page's rights.
            "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; "
            "img-src data:",
            "x-content-type-options": "nosniff",
        },
    )
