"""`/v1/files`."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, File, Form, Query, Request, UploadFile

from rag_backend.api.document import EVERYWHERE, LOOKED_UP, fails
from rag_backend.api.objects import Order, deleted, file_object, page, window
from rag_backend.api.parts import Backend
from rag_backend.api.ranges import RangedFile
from rag_backend.api.rights import Asking, reach_of
from rag_backend.api.shapes import Deleted, FileObject, Page
from rag_backend.errors import BadRequest, MissingRight, NotFound, UnsupportedFeature

router = APIRouter(prefix="/v1/files", responses=EVERYWHERE | LOOKED_UP)

_PART = 2**20  # bytes read from the upload at a time
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"  # as OpenAI's SDKs send them
_FIELDS = frozenset(("file", "purpose", _ANCHOR, _SECONDS))
Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
Anchor = Literal["created_at"]


@router.post("", responses=fails(413, 429, 507))
async def upload_file(
    request: Request,
    backend: Backend,
    caller: Asking,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[Purpose, Form()] = "user_data",
    anchor: Annotated[Anchor | None, Form(alias=_ANCHOR)] = None,
    seconds: Annotated[int | None, Form(alias=_SECONDS, ge=3600, le=2_592_000)] = None,
) -> FileObject:
    """Store a file's bytes, for good or until they expire."""
    if not caller.writes:
        raise MissingRight("This key lacks the right `write`: it may add to no vector store.")
    if (anchor is None) is not (seconds is None):
        raise BadRequest(
            "`expires_after` needs both `anchor` and `seconds`.", param="expires_after"
        )
    for name in (await request.form()).keys() - _FIELDS:
        raise UnsupportedFeature(f"There is no form field `{name}`.", param=name)

    async def parts() -> AsyncIterator[bytes]:
        while part := await file.read(_PART):
            yield part

    stored = await backend.library.upload(
        file.filename or "", purpose, parts(), seconds, caller.id or None
    )
    return file_object(stored)


@router.get("")
async def list_files(
    backend: Backend,
    caller: Asking,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Order = "desc",
    after: str | None = None,
) -> Page[FileObject]:
    """Files, newest first: those in stores that the key may read, and its own uploads."""
    wanted, reach = window(limit, order, after), reach_of(caller)
    catalog = backend.library.catalog
    return page(await asyncio.to_thread(catalog.page_files, wanted, purpose, reach), file_object)


@router.get("/{file_id}")
async def retrieve_file(file_id: str, backend: Backend, caller: Asking) -> FileObject:
    """One file."""
    catalog = backend.library.catalog
    return file_object(await asyncio.to_thread(catalog.file, file_id, reach_of(caller)))


@router.delete("/{file_id}")
async def delete_file(file_id: str, backend: Backend, caller: Asking) -> Deleted:
    """Delete a file everywhere; the key must be allowed to write to every store that it is in."""
    if caller.bound:
        catalog = backend.library.catalog
        file = await asyncio.to_thread(catalog.file, file_id, reach_of(caller))
        holders = await asyncio.to_thread(catalog.holders, file_id)
        if not holders and file.uploaded_by != caller.id:
            raise NotFound(f"No such file: {file_id}", param="file_id")
        if not all(caller.may("write", *names) for names in holders):
            raise MissingRight(
                f"This key lacks the right `write` on a vector store that {file_id} is in: take "
                "it out of those that the key may write to.",
            )
    await backend.library.delete_file(file_id)
    return deleted(file_id, "file")  # OpenAI's name for it, without ".deleted"


@router.get(
    "/{file_id}/content",
    response_class=RangedFile,
    responses={
        200: {"content": {"*/*": {}}, "description": "All bytes, with the file's own type"},
        206: {"content": {"*/*": {}}, "description": "The bytes that `Range` asks for"},
        **fails(416),
    },
)
@router.head("/{file_id}/content", include_in_schema=False)
async def file_content(file_id: str, backend: Backend, caller: Asking) -> RangedFile:
    """The bytes as they were uploaded, shown by a browser where it can (range requests work)."""
    file = await backend.library.file(file_id, reach_of(caller))
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
