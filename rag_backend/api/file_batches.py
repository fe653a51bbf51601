"""`/v1/vector_stores/{id}/file_batches`: many files at once."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response

from rag_backend.api.bodies import BatchBody
from rag_backend.api.document import CHANGED, EVERYWHERE
from rag_backend.api.objects import Order, batch_object, page, window
from rag_backend.api.parts import Backend, Limit
from rag_backend.api.rights import Asking, Readable, Writable, reach_of
from rag_backend.api.shapes import BatchObject, Page, StoreFileObject
from rag_backend.api.store_files import POLL_AFTER, shown
from rag_backend.api.strict import StrictRoute
from rag_backend.knowledge.models import FileStatus

router = APIRouter(
    prefix="/v1/vector_stores/{vector_store_id}/file_batches",
    route_class=StrictRoute,
    responses=EVERYWHERE | CHANGED,
)


@router.post("")
async def create_batch(
    store: Writable, body: BatchBody, backend: Backend, caller: Asking
) -> BatchObject:
    """Put files into the store together, all or none; they are indexed in the background."""
    wanted = body.wanted()
    await backend.library.check_reach(wanted, reach_of(caller))
    return batch_object(await backend.library.attach_batch(store, wanted))


@router.get("/{batch_id}")
async def retrieve_batch(
    store: Readable, batch_id: str, backend: Backend, response: Response
) -> BatchObject:
    """One batch, with what has become of its files."""
    batch = await asyncio.to_thread(backend.library.catalog.batch, store.id, batch_id)
    response.headers.update(POLL_AFTER)
    return batch_object(batch)


@router.post("/{batch_id}/cancel")
async def cancel_batch(store: Writable, batch_id: str, backend: Backend) -> BatchObject:
    """Cancel what is not indexed yet; what is, stays."""
    return batch_object(await backend.library.cancel_batch(store, batch_id))


@router.get("/{batch_id}/files")
async def list_batch_files(
    store: Readable,
    batch_id: str,
    backend: Backend,
    limit: Limit = 20,
    order: Order = "desc",
    after: str | None = None,
    before: str | None = None,
    filter: FileStatus | None = None,
) -> Page[StoreFileObject]:
    """The batch's files, newest first, optionally of one status."""
    catalog = backend.library.catalog
    await asyncio.to_thread(catalog.batch, store.id, batch_id)
    wanted = window(limit, order, after, before)
    listed = await asyncio.to_thread(catalog.page_store_files, store.id, wanted, filter, batch_id)
    return page(listed, lambda file: shown(file, backend))
