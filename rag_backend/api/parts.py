"""What the routes work with: the parts that `app.py` built, handed over on the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Query, Request

from rag_backend.answering.caching import Answers
from rag_backend.answering.pipeline import Pipeline
from rag_backend.api.admitting import Places
from rag_backend.knowledge.encoder import EncoderLoader
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.reranking import Reranking
from rag_backend.llm.registry import Registry
from rag_backend.metrics import Metrics
from rag_backend.readiness import Readiness
from rag_backend.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """One backend."""

    settings: Settings
    library: Library
    encoder: EncoderLoader
    reranking: Reranking
    registry: Registry
    pipeline: Pipeline
    answers: Answers
    metrics: Metrics
    places: Places
    uploads: Places
    readiness: Readiness


def parts_of(app: Any) -> Parts:
    """An application's parts."""
    return cast(Parts, app.state.parts)


async def _parts(request: Request) -> Parts:  # async: FastAPI takes any other to a thread
    return parts_of(request.app)


Backend = Annotated[Parts, Depends(_parts)]


Limit = Annotated[int, Query(ge=1, le=100)]
"""How many items of a list are wanted at once."""
