"""`/v1/vector_stores/{id}/files`: what is in a store."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response

from rag_backend.api.bodies import AttributesBody, StoreFileBody
from rag_backend.api.document import CHANGED, EVERYWHERE
from rag_backend.api.objects import (
    Order,
    chunk_content,
    deleted,
    page,
    store_file_object,
    window,
)
from rag_backend.api.parts import Backend, Limit, Parts
from rag_backend.api.rights import Asking, Readable, Writable, reach_of
from rag_backend.api.shapes import ContentPage, Deleted, Page, StoreFileObject
from rag_backend.api.strict import StrictRoute
from rag_backend.knowledge.models import FileStatus, StoreFile

router = APIRouter(
    prefix="/v1/vector_stores/{vector_store_id}/files",
    route_class=StrictRoute,
    responses=EVERYWHERE | CHANGED,
)

POLL_AFTER = {"openai-poll-after-ms": "250"}
"""What an SDK that waits for a job to end is told to wait until it looks again."""


@router.post("")
async def attach_file(
    store: Writable, body: StoreFileBody, backend: Backend, caller: Asking
) -> StoreFileObject:
    """Put a file into the store; it is indexed in the background."""
    wanted = body.wanted()
    await backend.library.check_reach([wanted], reach_of(caller))
    attached = await backend.library.attach(
        store, wanted.file_id, wanted.attributes, wanted.chunking
    )
    return shown(attached, backend)


@router.get("")
async def list_store_files(
    store: Readable,
    backend: Backend,
    limit: Limit = 20,
    order: Order = "desc",
    after: str | None = None,
    before: str | None = None,
    filter: FileStatus | None = None,
) -> Page[StoreFileObject]:
    """The store's files, newest first, optionally of one status."""
    wanted = window(limit, order, after, before)
    catalog = backend.library.catalog
    listed = await asyncio.to_thread(catalog.page_store_files, store.id, wanted, filter)
    return page(listed, lambda file: shown(file, backend))


@router.get("/{file_id}")
async def retrieve_store_file(
    store: Readable, file_id: str, backend: Backend, response: Response
) -> StoreFileObject:
    """One of the store's files, with its status."""
    file = await asyncio.to_thread(backend.library.catalog.store_file, store.id, file_id)
    response.headers.update(POLL_AFTER)
    return shown(file, backend)


@router.post("/{file_id}")
async def update_store_file(
    store: Writable, file_id: str, body: AttributesBody, backend: Backend
) -> StoreFileObject:
    """Replace a file's attributes."""
    catalog = backend.library.catalog
    await asyncio.to_thread(catalog.store_file, store.id, file_id)
    await asyncio.to_thread(catalog.set_attributes, store.id, file_id, body.attributes or {})
    return shown(await asyncio.to_thread(catalog.store_file, store.id, file_id), backend)


@router.delete("/{file_id}")
async def detach_file(store: Writable, file_id: str, backend: Backend) -> Deleted:
    """Take a file out of the store; its bytes stay."""
    await backend.library.detach(store, file_id)
    return deleted(file_id, "vector_store.file.deleted")


@router.get("/{file_id}/content")
async def store_file_content(store: Readable, file_id: str, backend: Backend) -> ContentPage:
    """The text that was indexed, chunk by chunk."""
    chunks = await backend.library.chunks(store, file_id)
    return {
        "object": "vector_store.file_content.page",
        "data": [chunk_content(chunk) for chunk in chunks],
        "has_more": False,
        "next_page": None,
    }


def shown(file: StoreFile, backend: Parts) -> StoreFileObject:
    """A store file, with the size that the present encoder allows its windows."""
    return store_file_object(file, backend.encoder.max_tokens)
