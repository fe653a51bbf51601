"""`/v1/models`: the providers, and each of them with each further store."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from rag_backend.api.chat import split_model
from rag_backend.api.document import EVERYWHERE, LOOKED_UP
from rag_backend.api.parts import Backend
from rag_backend.api.rights import Asking, reached
from rag_backend.api.shapes import ModelList, ModelObject
from rag_backend.errors import NotFound
from rag_backend.knowledge.library import DEFAULT_STORE

router = APIRouter(prefix="/v1/models", responses=EVERYWHERE | LOOKED_UP)


@router.get("")
async def list_models(backend: Backend, caller: Asking) -> ModelList:
    """Every name that a request may give as its `model`."""
    every = await asyncio.to_thread(backend.library.catalog.list_stores)
    stores = [store for store in every if caller.may("read", store.name, store.id)]
    further = [store.name for store in stores if store.name != DEFAULT_STORE]
    names = backend.registry.models()
    plain = names if len(further) < len(stores) else []  # they ask the default store
    listed = [*plain, *(f"{name}@{store}" for store in further for name in names)]
    created = stores[0].created_at if stores else 0
    return {"object": "list", "data": [_model(name, created) for name in listed]}


@router.get("/{model:path}")
async def retrieve_model(model: str, backend: Backend, caller: Asking) -> ModelObject:
    """One of them."""
    name, store_name = split_model(model)
    store = reached(await backend.library.store(store_name), store_name, caller)
    if name is not None and name not in backend.registry.models():
        raise NotFound(f"The model '{model}' does not exist.", code="model_not_found")
    return _model(model, store.created_at)


def _model(name: str, created: int) -> ModelObject:
    return {"id": name, "object": "model", "created": created, "owned_by": "rag-backend"}
