"""`/v1/vector_stores`, and search. A store's name works wherever its id does."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import APIRouter, Depends

from rag_backend.api.bodies import SearchBody, StoreBody, StoreChanges
from rag_backend.api.document import ASKED, CHANGED, EVERYWHERE
from rag_backend.api.objects import (
    Order,
    deleted,
    search_result,
    shown_page,
    store_object,
    window,
)
from rag_backend.api.parts import Backend, Limit, Parts
from rag_backend.api.rights import (
    Asking,
    Readable,
    Writable,
    administrative,
    lacking,
    reach_of,
)
from rag_backend.api.shapes import Deleted, Page, SearchPage, StoreObject
from rag_backend.api.strict import StrictRoute
from rag_backend.errors import Conflict
from rag_backend.knowledge import filters as attribute_filters
from rag_backend.knowledge.library import DEFAULT_STORE
from rag_backend.knowledge.models import Store, new_id
from rag_backend.knowledge.passages import Hit

router = APIRouter(
    prefix="/v1/vector_stores", route_class=StrictRoute, responses=EVERYWHERE | CHANGED
)
_HITS_A_RESULT, _MOST_HITS = 2, 100


@router.post("")
async def create_store(body: StoreBody, backend: Backend, caller: Asking) -> StoreObject:
    """Create a store; without a name it gets its own id's style of name."""
    name, wanted = body.name or new_id("store-"), body.wanted()
    if not caller.may("write", name):
        raise lacking("write", name, caller)
    await backend.library.check_reach(wanted, reach_of(caller))
    store = await backend.library.create_store(
        name,
        body.metadata or {},
        wanted,
        body.description,
        None if body.expires_after is None else body.expires_after.days,
    )
    return await _shown(store, backend)


@router.get("")
async def list_stores(
    backend: Backend,
    caller: Asking,
    limit: Limit = 20,
    order: Order = "desc",
    after: str | None = None,
    before: str | None = None,
) -> Page[StoreObject]:
    """Stores, newest first: those that the key may read."""
    wanted, reach = window(limit, order, after, before), reach_of(caller)
    listed = await asyncio.to_thread(backend.library.catalog.page_stores, wanted, reach)
    return shown_page([await _shown(store, backend) for store in listed.items], listed.has_more)


@router.get("/{vector_store_id}")
async def retrieve_store(store: Readable, backend: Backend) -> StoreObject:
    """One store."""
    return await _shown(store, backend)


@router.post("/{vector_store_id}")
async def modify_store(
    store: Writable, body: StoreChanges, backend: Backend, caller: Asking
) -> StoreObject:
    """Change what a store is called, described and marked with, and when it expires."""
    if body.name not in (None, store.name):
        await administrative(caller)  # rights are given by name
    if store.name == DEFAULT_STORE and body.name not in (None, DEFAULT_STORE):
        raise Conflict("The default store keeps its name: questions go to it.", param="name")
    if store.name == DEFAULT_STORE and body.expires_after is not None:
        raise Conflict("The default store never expires.", param="expires_after")
    values = body.values()
    if values:
        await asyncio.to_thread(backend.library.catalog.update_store, store.id, **values)
    if "expires_after" in body.model_fields_set:
        days = None if body.expires_after is None else body.expires_after.days
        await backend.library.set_expiry(store, days)
    return await _shown(await backend.library.store(store.id), backend)


@router.delete("/{vector_store_id}")
async def delete_store(store: Writable, backend: Backend) -> Deleted:
    """Delete a store and everything indexed in it; the files themselves stay."""
    await backend.library.delete_store(store)
    return deleted(store.id, "vector_store.deleted")


@router.post("/{vector_store_id}/rebuild", dependencies=[Depends(administrative)])
async def rebuild_store(store: Readable, backend: Backend) -> StoreObject:
    """Make vectors and postings anew from the catalog, with the present encoder (our addition)."""
    await backend.library.indexer.rebuild(store)
    return await _shown(await backend.library.store(store.id), backend)


@router.post("/{vector_store_id}/search", responses=ASKED)
async def search_store(store: Readable, body: SearchBody, backend: Backend) -> SearchPage:
    """The best passages for one query, or for several together: chunks with their neighbours."""
    queries = body.queries()
    if body.filters is not None:
        attribute_filters.check(body.filters)
    if body.rewrite_query:
        queries = await asyncio.gather(*map(backend.pipeline.search_query, queries))
    # Hits that stand side by side become one result: more are needed for as many results.
    most = min(_MOST_HITS, _HITS_A_RESULT * body.max_num_results)
    search = partial(backend.library.search, store, k=most, filters=body.filters)
    best: dict[str, Hit] = {}
    for hits in await asyncio.gather(*(search(q, rerank=body.rerank) for q in queries)):
        for hit in hits:
            known = best.get(hit.chunk.id)
            best[hit.chunk.id] = hit if known is None or hit.score > known.score else known
    ranked = sorted(best.values(), key=lambda hit: -hit.score)
    passages = await backend.library.passages(store, ranked, body.max_num_results)
    threshold = (body.ranking_options and body.ranking_options.score_threshold) or 0.0
    return {
        "object": "vector_store.search_results.page",
        "search_query": queries,
        "data": [search_result(passage) for passage in passages if passage.score >= threshold],
        "has_more": False,
        "next_page": None,
    }


async def _shown(store: Store, backend: Parts) -> StoreObject:
    catalog = backend.library.catalog
    counts, usage = await asyncio.to_thread(catalog.file_counts, store.id)
    fusion = await asyncio.to_thread(catalog.fusion, store)
    progress = backend.library.indexer.progress(store)
    return store_object(store, counts, usage, fusion, progress)
