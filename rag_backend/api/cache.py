"""`POST /cache/clear`."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from rag_backend.api.document import EVERYWHERE, fails
from rag_backend.api.parts import Backend
from rag_backend.api.rights import administrative
from rag_backend.api.shapes import Cleared

router = APIRouter(dependencies=[Depends(administrative)], responses=EVERYWHERE | fails(503))


@router.post("/cache/clear")
async def clear(backend: Backend) -> Cleared:
    """Forget every kept answer; those that are on their way are given, and not kept.

    `cleared` is how many there were. 503 `cache_unavailable` where Redis did not do it.
    """
    return {"object": "cache.cleared", "cleared": await backend.answers.clear()}
