"""`/v1/providers`: who can answer, and how each of them is doing."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from rag_backend.api.parts import Backend
from rag_backend.api.rights import administrative

router = APIRouter(prefix="/v1/providers", dependencies=[Depends(administrative)])


@router.get("")
async def list_providers(backend: Backend) -> dict[str, Any]:
    """Each provider's addresses, model, state, latency, breakers and requests in flight."""
    return {"object": "list", "data": [_object(row) for row in backend.registry.info()]}


@router.get("/{name}")
async def retrieve_provider(name: str, backend: Backend) -> dict[str, Any]:
    """One of them."""
    backend.registry.get_required(name)
    return next(_object(row) for row in backend.registry.info() if row["name"] == name)


def _object(row: dict[str, Any]) -> dict[str, Any]:
    return {"object": "provider", **row}
