"""`/v1/vector_stores`, their files, and search. A store's name works wherever its id does."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query

from rag_backend.api.objects import (
    Order,
    chunk_content,
    deleted,
    page,
    search_result,
    store_file_object,
    store_object,
)
from rag_backend.api.parts import Backend, Parts, StoreByPath
from rag_backend.api.schemas import (
    AttributesBody,
    SearchBody,
    StoreBody,
    StoreChanges,
    StoreFileBody,
    check_attributes,
    refuse_unsupported,
)
from rag_backend.api.strict import StrictRoute
from rag_backend.errors import BadRequest, Conflict, UnsupportedFeature
from rag_backend.knowledge import filters as attribute_filters
from rag_backend.knowledge.library import DEFAULT_STORE
from rag_backend.knowledge.models import FileStatus, Store, new_id
from rag_backend.knowledge.retriever import Hit

router = APIRouter(prefix="/v1/vector_stores", route_class=StrictRoute)
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("")
async def create_store(body: StoreBody, backend: Backend) -> dict[str, Any]:
    """Create a store; without a name it gets its own id's style of name."""
    refuse_unsupported(body.chunking_strategy, body.expires_after)
    if body.description:
        raise UnsupportedFeature(
            "`description` is not kept: put it into `metadata`.", param="description"
        )
    for file_id in body.file_ids:  # all or none: a wrong id must not leave half a store
        await asyncio.to_thread(backend.library.catalog.file, file_id)
    name = body.name or new_id("store-")
    metadata = body.metadata or {}
    store = await asyncio.to_thread(backend.library.catalog.create_store, name, metadata)
    for file_id in body.file_ids:
        await backend.library.attach(store, file_id, {})
    return await _shown(store, backend)


@router.get("")
async def list_stores(
    backend: Backend,
    limit: Limit = 20,
    order: Order = "desc",
    after: str | None = None,
    before: str | None = None,
) -> dict[str, Any]:
    """All stores, newest first."""
    stores = await asyncio.to_thread(backend.library.catalog.list_stores)
    listed = page(
        stores,
        lambda store: store.id,
        lambda store: {"store": store},
        limit=limit,
        order=order,
        after=after,
        before=before,
    )
    # Only those of this page are counted.
    return listed | {"data": [await _shown(item["store"], backend) for item in listed["data"]]}


@router.get("/{vector_store_id}")
async def retrieve_store(store: StoreByPath, backend: Backend) -> dict[str, Any]:
    """One store."""
    return await _shown(store, backend)


@router.post("/{vector_store_id}")
async def modify_store(store: StoreByPath, body: StoreChanges, backend: Backend) -> dict[str, Any]:
    """Change a store's name or metadata."""
    refuse_unsupported(expires=body.expires_after)
    changes = body.model_dump(include={"name", "metadata"}, exclude_none=True)
    if store.name == DEFAULT_STORE and body.name not in (None, DEFAULT_STORE):
        raise Conflict("The default store keeps its name: questions go to it.", param="name")
    if changes:
        store = await asyncio.to_thread(backend.library.catalog.update_store, store.id, **changes)
    return await _shown(store, backend)


@router.delete("/{vector_store_id}")
async def delete_store(store: StoreByPath, backend: Backend) -> dict[str, Any]:
    """Delete a store and everything indexed in it; the files themselves stay."""
    await backend.library.delete_store(store)
    return deleted(store.id, "vector_store")


@router.post("/{vector_store_id}/rebuild")
async def rebuild_store(store: StoreByPath, backend: Backend) -> dict[str, Any]:
    """Make vectors and postings anew from the catalog, with the present encoder (our addition)."""
    await backend.library.indexer.rebuild(store)
    return await _shown(await backend.library.store(store.id), backend)


@router.post("/{vector_store_id}/search")
async def search_store(store: StoreByPath, body: SearchBody, backend: Backend) -> dict[str, Any]:
    """The best chunks for one query, or for several together."""
    if body.rewrite_query:
        raise UnsupportedFeature("`rewrite_query` is not supported.", param="rewrite_query")
    queries = [body.query] if isinstance(body.query, str) else body.query
    if not any(query.strip() for query in queries):
        raise BadRequest("`query` is empty.", param="query")
    if body.filters is not None:
        attribute_filters.check(body.filters)
    best: dict[str, Hit] = {}
    for query in queries:
        found = await backend.library.search(store, query, body.max_num_results, body.filters)
        for hit in found:
            known = best.get(hit.chunk.id)
            best[hit.chunk.id] = hit if known is None or hit.score > known.score else known
    threshold = (body.ranking_options and body.ranking_options.score_threshold) or 0.0
    ranked = sorted(best.values(), key=lambda hit: -hit.score)[: body.max_num_results]
    return {
        "object": "vector_store.search_results.page",
        "search_query": queries,
        "data": [search_result(hit) for hit in ranked if hit.score >= threshold],
        "has_more": False,
        "next_page": None,
    }


@router.post("/{vector_store_id}/files")
async def attach_file(store: StoreByPath, body: StoreFileBody, backend: Backend) -> dict[str, Any]:
    """Put a file into the store; it is indexed in the background."""
    refuse_unsupported(body.chunking_strategy)
    attributes = check_attributes(body.attributes)
    return store_file_object(await backend.library.attach(store, body.file_id, attributes))


@router.get("/{vector_store_id}/files")
async def list_store_files(
    store: StoreByPath,
    backend: Backend,
    limit: Limit = 20,
    order: Order = "desc",
    after: str | None = None,
    before: str | None = None,
    filter: FileStatus | None = None,
) -> dict[str, Any]:
    """The store's files, newest first, optionally of one status."""
    files = await asyncio.to_thread(backend.library.catalog.list_store_files, store.id, filter)
    return page(
        files,
        lambda file: file.file_id,
        store_file_object,
        limit=limit,
        order=order,
        after=after,
        before=before,
    )


@router.get("/{vector_store_id}/files/{file_id}")
async def retrieve_store_file(store: StoreByPath, file_id: str, backend: Backend) -> dict[str, Any]:
    """One of the store's files, with its status."""
    file = await asyncio.to_thread(backend.library.catalog.store_file, store.id, file_id)
    return store_file_object(file)


@router.post("/{vector_store_id}/files/{file_id}")
async def update_store_file(
    store: StoreByPath, file_id: str, body: AttributesBody, backend: Backend
) -> dict[str, Any]:
    """Replace a file's attributes."""
    catalog = backend.library.catalog
    await asyncio.to_thread(catalog.store_file, store.id, file_id)
    attributes = check_attributes(body.attributes)
    await asyncio.to_thread(catalog.set_attributes, store.id, file_id, attributes)
    return store_file_object(await asyncio.to_thread(catalog.store_file, store.id, file_id))


@router.delete("/{vector_store_id}/files/{file_id}")
async def detach_file(store: StoreByPath, file_id: str, backend: Backend) -> dict[str, Any]:
    """Take a file out of the store; its bytes stay."""
    await backend.library.detach(store, file_id)
    return deleted(file_id, "vector_store.file")


@router.get("/{vector_store_id}/files/{file_id}/content")
async def store_file_content(store: StoreByPath, file_id: str, backend: Backend) -> dict[str, Any]:
    """The text that was indexed, chunk by chunk."""
    chunks = await backend.library.chunks(store, file_id)
    return {
        "object": "vector_store.file_content.page",
        "data": [chunk_content(chunk) for chunk in chunks],
        "has_more": False,
        "next_page": None,
    }


async def _shown(store: Store, backend: Parts) -> dict[str, Any]:
    catalog = backend.library.catalog
    counts, usage = await asyncio.to_thread(catalog.file_counts, store.id)
    fusion = await asyncio.to_thread(catalog.fusion, store)
    return store_object(store, counts, usage, fusion)
