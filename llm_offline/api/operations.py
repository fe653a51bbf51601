"""Endpoints about the server: health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse

from llm_offline.api.embeddings import encoding_of
from llm_offline.api.exposition import encoding_exposition, exposition
from llm_offline.api.replying import ready, serving_of
from llm_offline.engine.interface import EngineStatus
from llm_offline.errors import LLMOfflineError
from llm_offline.running import Ready
from llm_offline.serving import Serving

open_router = APIRouter()
"""Needs no key: load balancers and the start of other services look here."""

router = APIRouter()


@open_router.get("/health")
async def health(request: Request) -> JSONResponse:
    """200 and the state of a server that answers, or 503: how far the loading is, or what fails.

    One whose model was unloaded because nobody asked answers the next request: 200, `idle`.
    """
    serving = serving_of(request)
    if serving.state == "idle" and not serving.stopped:
        idle = {"status": "idle", "model": serving.model_name}
        return JSONResponse(idle | _encoder(request))
    try:
        now = serving.ready()
        state = _state(serving, now, await now.memory()) | _encoder(request)
        return JSONResponse(state, status_code=200 if state["status"] == "ok" else 503)
    except LLMOfflineError as error:
        loading: dict[str, Any] = {
            "status": error.code,
            "model": serving.model_name,
            "device": serving.settings.device,
        }
        if serving.state == "loading":
            loading["progress"] = serving.progress.stage.as_json()
        return JSONResponse(
            loading | _encoder(request) | error.envelope(),
            status_code=error.status,
            headers=error.headers(),
        )


@router.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """Queue and counters in Prometheus' text format; a new model's counters begin at 0."""
    serving = serving_of(request)
    now = serving.here
    if now is None and serving.state == "loading":
        now = ready(request)  # says how far the loading is
    if now is not None:
        status, memory = now.engine.status(), await now.memory()
    else:
        status, memory = EngineStatus(0, 0, serving.settings.max_queue, {}, 0, 0), {}
    return PlainTextResponse(
        exposition(status, memory, loaded=now is not None)
        + encoding_exposition(encoding_of(request).status()),
        media_type="text/plain; version=0.0.4",
    )


def _state(serving: Serving, now: Ready, memory: dict[str, int]) -> dict[str, Any]:
    status = now.engine.status()
    return {
        "status": "ok" if status.failing is None else "failing",
        "model": serving.model_name,
        "device": now.model.device,
        "dtype": now.model.dtype,
        "memory": memory,
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
    } | _coming(serving)


def _encoder(request: Request) -> dict[str, Any]:
    """Of `/v1/embeddings`; a model that fails there leaves the rest of the server as it is."""
    now = encoding_of(request).status()
    return {
        "embedding_model": serving_of(request).settings.embedding_model,
        "embeddings": {
            "status": now.state,
            "device": now.device,
            "reason": now.reason,
            "requests": now.waiting,
            "limit": now.limit,
        },
    }


def _coming(serving: Serving) -> dict[str, Any]:
    """What is being loaded beside the model that serves."""
    if serving.coming is None:
        return {}
    return {"next": {"model": serving.coming, "progress": serving.progress.stage.as_json()}}
