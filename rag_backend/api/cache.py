"""`POST /cache/clear`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from rag_backend.api.parts import Backend
from rag_backend.api.rights import administrative

router = APIRouter(dependencies=[Depends(administrative)])


@router.post("/cache/clear")
async def clear(backend: Backend) -> dict[str, Any]:
    """Forget every kept answer; those that are on their way are given, and not kept.

    `cleared` is how many there were. 503 `cache_unavailable` where Redis did not do it.
    """
    return {"object": "cache.cleared", "cleared": await backend.answers.clear()}
