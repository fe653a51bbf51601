"""`/health`, `/health/ready`, `/metrics` and the page at `/`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.responses import Response

from rag_backend.api.accepting import prefers_json
from rag_backend.api.document import EVERYWHERE
from rag_backend.api.parts import Backend
from rag_backend.api.rights import Asking, administrative
from rag_backend.api.shapes import ReadinessReport
from rag_backend.summarising import summary

router = APIRouter()


@router.get("/health")
async def health(backend: Backend, caller: Asking) -> dict[str, Any]:
    """Always 200: the process lives. Whether it can answer is `/health/ready`; needs no key.

    `status` is "starting" until questions can be answered as they should, then "ok". Names and
    reasons are for keys with all rights.
    """
    arriving = backend.library.arriving
    loaded = backend.encoder.ready
    ready = loaded and arriving is None
    late = backend.encoder.problem or backend.library.retriever.queries.problem
    problem = {"problem": late} if late else {}
    if caller.bound:
        status = "ok" if ready else "starting"
        return {"status": status, "service": "rag-backend", "encoder": {"ready": loaded}}
    return {
        "status": "ok" if ready else "starting",
        "service": "rag-backend",
        "version": version("rag-backend"),
        "encoder": {"model": backend.settings.embedding_model, "ready": loaded} | problem,
        "provider": backend.registry.chosen,
        "pending_files": backend.library.indexer.pending,
        "storage": {
            "problem": backend.library.indexer.problem,
            "rebuilding": backend.library.indexer.rebuilding,
        }
        | ({"arriving": arriving} if arriving else {}),
    }


@router.get(
    "/health/ready",
    responses={
        200: {"model": ReadinessReport},
        503: {"model": ReadinessReport, "description": "Questions cannot be answered now"},
    },
)
async def ready(backend: Backend, caller: Asking) -> JSONResponse:
    """200 where a question can be answered, 503 where it cannot, and what is missing; no key.

    The reasons are for keys with all rights.

    `status`: ready; degraded (200: something fails that another part makes up for); unready.
    """
    report = backend.readiness.report()
    if caller.bound:
        for row in report["missing"]:
            row["reason"] = "A key with all rights is told why."
        for row in report["dependencies"]:
            del row["detail"]
    return JSONResponse(report, 503 if report["status"] == "unready" else 200)


@router.get(
    "/metrics",
    dependencies=[Depends(administrative)],
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **EVERYWHERE},
    response_class=Response,
)
async def metrics(request: Request, backend: Backend) -> Response:
    """Prometheus' text format, OpenMetrics or JSON, as `Accept` says."""
    accept = request.headers.get("accept", "")
    shown = backend.metrics
    if prefers_json(accept):
        body = await asyncio.to_thread(lambda: summary(shown.families()))
        return JSONResponse(body, headers={"vary": "accept"})
    text, content_type = await asyncio.to_thread(shown.encoded, accept)
    return Response(text, headers={"content-type": content_type, "vary": "accept"})


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """A page to ask from; only its own script runs in it."""
    text = files("rag_backend.web").joinpath("index.html").read_text("utf-8")
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(text, headers={"content-security-policy": policy})
