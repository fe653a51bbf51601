"""`/v1/providers`: who can answer, and how each of them is doing."""

from __future__ import annotations

from typing import Any, cast

from fastapi import APIRouter, Depends

from rag_backend.api.document import EVERYWHERE, fails
from rag_backend.api.parts import Backend
from rag_backend.api.rights import administrative
from rag_backend.api.shapes import ProviderList, ProviderObject

router = APIRouter(
    prefix="/v1/providers", dependencies=[Depends(administrative)], responses=EVERYWHERE
)


@router.get("")
async def list_providers(backend: Backend) -> ProviderList:
    """Each provider's addresses, model, state, latency, breakers and requests in flight."""
    return {"object": "list", "data": [_object(row) for row in backend.registry.info()]}


@router.get("/{name}", responses=fails(404))
async def retrieve_provider(name: str, backend: Backend) -> ProviderObject:
    """One of them."""
    rows = {row["name"]: row for row in backend.registry.info()}
    if name not in rows:
        backend.registry.get_required(name)  # says which there are
    return _object(rows[name])


def _object(row: dict[str, Any]) -> ProviderObject:
    return cast(ProviderObject, {"object": "provider", **row})
