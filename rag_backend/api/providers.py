"""`/v1/providers`: who can answer, and how each of them is doing."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from rag_backend.api.parts import Backend

router = APIRouter(prefix="/v1/providers")


@router.get("")
async def list_providers(backend: Backend) -> dict[str, Any]:
    """Each provider's addresses, model, state, latency, breakers and requests in flight."""
    return {"object": "list", "data": [_object(row) for row in backend.registry.info()]}


@router.get("/{name}")
async def retrieve_provider(name: str, backend: Backend) -> dict[str, Any]:
    """One of them."""
    rows = {row["name"]: row for row in backend.registry.info()}
    if name not in rows:
        backend.registry.get_required(name)  # says which there are
    return _object(rows[name])


def _object(row: dict[str, Any]) -> dict[str, Any]:
    return {"object": "provider", **row}
