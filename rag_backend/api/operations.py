"""`/health`, `/metrics` and the page at `/`."""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from rag_backend.api.parts import Backend

router = APIRouter()


@router.get("/health")
async def health(backend: Backend) -> JSONResponse:
    """200 once questions can be answered as they should, 503 before; needs no key."""
    arriving = backend.library.arriving
    loaded = backend.encoder.ready
    ready = loaded and arriving is None
    late = backend.encoder.problem or backend.library.retriever.queries.problem
    problem = {"problem": late} if late else {}
    body = {
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
    return JSONResponse(body, 200 if ready else 503)


@router.get("/metrics")
async def metrics(backend: Backend) -> Response:
    """Prometheus' text format."""
    backend.metrics.pending_files.set(backend.library.indexer.pending)
    return Response(backend.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


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
