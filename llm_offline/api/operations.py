"""Endpoints about the server: health, models, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse

from llm_offline.api.exposition import exposition
from llm_offline.api.replying import ready, serving_of
from llm_offline.errors import LLMOfflineError, NotFound
from llm_offline.serving import Ready, Serving

open_router = APIRouter()
"""Needs no key: load balancers and the start of other services look here."""

router = APIRouter()


@open_router.get("/health")
async def health(request: Request) -> JSONResponse:
    """200 and the state of a ready server, or 503: how far the loading is, or what fails."""
    serving = serving_of(request)
    try:
        state = _state(serving, serving.ready())
        return JSONResponse(state, status_code=200 if state["status"] == "ok" else 503)
    except LLMOfflineError as error:
        loading = {
            "status": error.code,
            "model": serving.model_name,
            "device": serving.settings.device,
            "progress": serving.progress.stage.as_json(),
        }
        return JSONResponse(
            loading | error.envelope(), status_code=error.status, headers=error.headers()
        )


@router.get("/v1/models")
async def models(request: Request) -> JSONResponse:
    """The one model."""
    return JSONResponse({"object": "list", "data": [_model(request)]})


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> JSONResponse:
    """The one model, by its name."""
    found = _model(request)
    if name != found["id"]:
        raise NotFound(
            f"the model {name!r} is not here; {found['id']!r} is", code="model_not_found"
        )
    return JSONResponse(found)


@router.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """Queue and counters in Prometheus' text format."""
    now = ready(request)
    return PlainTextResponse(
        exposition(now.engine.status(), now.model.network.memory()),
        media_type="text/plain; version=0.0.4",
    )


def _state(serving: Serving, now: Ready) -> dict[str, Any]:
    status = now.engine.status()
    return {
        "status": "ok" if status.failing is None else "failing",
        "model": serving.model_name,
        "device": now.model.device,
        "dtype": now.model.dtype,
        "memory": now.model.network.memory(),
        "context_length": now.model.context,
        "queue": {
            "waiting": status.waiting,
            "running": status.running,
            "limit": status.queue_limit,
        },
        # After each of them the engine began anew; `failing`: it computes nothing any more.
        "step_failures": status.counters.get("step_failures", 0),
        "out_of_memory": status.counters.get("out_of_memory", 0),
        "failing": status.failing,
        "embedding_model": serving.settings.embedding_model,
    }


def _model(request: Request) -> dict[str, Any]:
    now = ready(request)
    return {
        "id": serving_of(request).model_name,
        "object": "model",
        "created": serving_of(request).started_at,
        "owned_by": "llm_offline",
        "max_model_len": now.model.context,
    }
