"""The one place where the backend's parts are built and wired."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from rag_backend.answering.caching import Answers
from rag_backend.answering.condensing import Condenser
from rag_backend.answering.pipeline import Pipeline
from rag_backend.api import (
    cache,
    chat,
    document,
    embeddings,
    failures,
    file_batches,
    files,
    models,
    operations,
    providers,
    store_files,
    vector_stores,
)
from rag_backend.api.admitting import Admitting, Places
from rag_backend.api.cors import Cors
from rag_backend.api.limiting import BodyLimit
from rag_backend.api.middleware import RequestMiddleware
from rag_backend.api.parts import Parts
from rag_backend.api.repeating import Repeating
from rag_backend.checks import count_files, dependencies
from rag_backend.errors import StartError
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.chroma import open_embedded, open_server
from rag_backend.knowledge.embedding import (
    EMBEDDED,
    QUERY_SECONDS,
    EmbeddingProvider,
    load_embedding,
)
from rag_backend.knowledge.embedding_server import ServerEmbedding
from rag_backend.knowledge.encoder import EncoderLoader
from rag_backend.knowledge.encoders import Encoders
from rag_backend.knowledge.followed import FollowedIndex
from rag_backend.knowledge.following import Following
from rag_backend.knowledge.indexer import Indexer
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import new_id
from rag_backend.knowledge.reading import ReadingPool
from rag_backend.knowledge.reranking import Reranking, check_reranker, load_reranker
from rag_backend.knowledge.retriever import Retriever
from rag_backend.knowledge.shared_blobs import SharedBlobs
from rag_backend.knowledge.sql.opening import open_postgres, open_sqlite
from rag_backend.knowledge.vectors import VectorIndex
from rag_backend.listening import is_own
from rag_backend.llm.cache.opening import open_backing
from rag_backend.llm.collecting import HostsCollector
from rag_backend.llm.pricing import Money
from rag_backend.llm.provider import LLMProvider
from rag_backend.llm.registry import Registry, build_registry
from rag_backend.metrics import Metrics
from rag_backend.patience import Patience
from rag_backend.readiness import Readiness
from rag_backend.settings import Settings
from rag_backend.upstream import Host, shown_url, with_version

Started = Callable[[Parts], None]


def create_app(settings: Settings, started: Started | None = None) -> FastAPI:
    """Build the application; opens DATA_DIR, which the caller must own (`ownership.py`).

    Args:
        started: Called in the event loop once the parts run; the encoder may still be loading.

    Raises:
        StartError, StorageBroken: A part cannot be built; one sentence says why.
    """
    parts = build_parts(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            closing.push_async_callback(parts.registry.aclose)
            closing.push_async_callback(_stop, parts)
            closing.push_async_callback(parts.answers.aclose)
            closing.push_async_callback(parts.readiness.stop)
            parts.encoder.start()
            parts.reranking.start()
            await parts.library.start()
            parts.readiness.start()
            if started is not None:
                started(parts)
            yield

    # Not FastAPI's own: its /docs is empty where the internet cannot be reached.
    app = FastAPIOffline(
        redoc_url=None,
        title="RAG backend",
        version=version("rag-backend"),
        lifespan=lifespan,
        # It would look for exporters at every request; what is counted here is at /metrics.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.parts = parts
    stores = (vector_stores, store_files, file_batches)
    for module in (cache, chat, models, providers, files, *stores, embeddings, operations):
        app.include_router(module.router)
    failures.install(app)
    document.install(app)
    keys = [key.get_secret_value() for key in settings.api_keys]
    limit = BodyLimit(settings.max_body_mb, settings.max_file_mb)
    # The last one stands outermost.
    app.add_middleware(Admitting, places=parts.places, uploads=parts.uploads)
    app.add_middleware(Repeating, parts=parts)
    app.add_middleware(RequestMiddleware, keys=keys, metrics=parts.metrics, limit=limit)
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)
    return app


async def _stop(parts: Parts) -> None:
    """Together: jobs are cancelled first, and then what they wait for is given up.

    A job that saw its encoder fail would be marked as failed; cancelled, it is resumed.
    """
    await asyncio.gather(parts.library.stop(), parts.encoder.stop(), parts.reranking.stop())


def build_parts(settings: Settings) -> Parts:
    """Every part of one backend, from the bottom up."""
    metrics = Metrics()
    registry = build_registry(settings, metrics)
    _refuse_ourselves(settings, registry)
    money = Money(registry.price, registry.baseline, metrics)
    encoder = EncoderLoader(lambda: _embedding(settings, metrics))
    reranking = _build_reranking(settings.reranker_model)
    library = _build_library(settings, encoder, reranking, metrics)
    local = _local_model(registry)
    condenser = Condenser(settings.condense, settings.context_tokens, local)
    pipeline = Pipeline(library, condenser, local, settings.no_answer, metrics, money)
    backing = open_backing(settings, metrics)
    answers = Answers(pipeline, library, backing, registry, reranking, settings, metrics, money)
    metrics.add(HostsCollector(registry.info))
    metrics.pending_files.set_function(lambda: library.indexer.pending)
    readiness = Readiness(metrics, settings.health_interval)
    looked_at = dependencies(settings, library, encoder, reranking, registry, backing)
    readiness.watch(looked_at, partial(count_files, library, metrics))
    return Parts(
        settings,
        library,
        encoder,
        reranking,
        registry,
        pipeline,
        answers,
        metrics,
        places=_places("questions", settings, metrics),
        uploads=_places("uploads", settings, metrics),
        readiness=readiness,
    )


def _refuse_ourselves(settings: Settings, registry: Registry) -> None:
    """Raise StartError where this backend would ask itself, which would never end."""
    rows = [registry.row(name) for name in registry.names()]
    given: list[tuple[str, str | None]] = [
        (row.url_setting, url) for row in rows for url in row.base_urls
    ]
    given += [("EMBEDDING_URL", settings.embedding_url), ("CHROMA_URL", settings.chroma_url)]
    for setting, url in given:
        if url and is_own(url, settings.host, settings.port):
            raise StartError(
                f"{setting} is this backend's own address ({shown_url(url)}): give it the "
                "server's, or this backend another PORT (llm_offline listens on 8001)."
            )


def _places(kind: str, settings: Settings, metrics: Metrics) -> Places:
    """Room for requests of a kind, and its numbers in the metrics."""
    refused = metrics.requests_refused.labels(kind).inc
    places = Places(settings.max_concurrent_requests, settings.max_queued_requests, refused)
    metrics.requests_running.labels(kind).set_function(lambda: places.running)
    metrics.requests_waiting.labels(kind).set_function(lambda: places.waiting)
    return places


def _build_reranking(model: str | None) -> Reranking:
    if model is None:
        return Reranking()
    check_reranker(model)
    return Reranking(lambda: load_reranker(model))


def _build_library(
    settings: Settings, encoder: EncoderLoader, reranking: Reranking, metrics: Metrics
) -> Library:
    data = settings.data_dir
    data.mkdir(parents=True, exist_ok=True)
    if settings.database_url is not None:
        database = settings.database_url.get_secret_value()
        return _build_shared_library(settings, database, encoder, reranking, metrics)
    catalog = Catalog(open_sqlite(data / "catalog.sqlite"))
    blobs = Blobs(data / "files", settings.max_file_mb * 2**20)
    url = settings.chroma_url
    vectors = VectorIndex(open_server(url) if url else open_embedded(data / "chroma"))
    lexical = LexicalIndex(data / "lexical")
    reading, readers = _reading(settings)
    encoders = Encoders(encoder, load_embedding)
    indexer = Indexer(catalog, blobs, vectors, lexical, encoders, reading, readers, metrics)
    retriever = Retriever(catalog, vectors, lexical, encoders, reranking)
    return Library(catalog, blobs, indexer, retriever)


def _embedding(settings: Settings, metrics: Metrics) -> EmbeddingProvider:
    """The encoder in this process, or the server that EMBEDDING_URL names; may take seconds."""
    if settings.embedding_url is None:
        return load_embedding(settings.embedding_model)
    key = settings.embedding_api_key
    host = Host(
        who="The embedding server",
        base_url=with_version(settings.embedding_url),
        secret=key.get_secret_value() if key else "",
        # What is meant for the LAN passes no proxy; a server on the internet speaks TLS.
        proxied=settings.embedding_url.startswith("https:"),
        url_setting="EMBEDDING_URL",
        key_setting="EMBEDDING_API_KEY",
        model_setting="EMBEDDING_MODEL",
        connect_timeout=settings.llm_connect_timeout,
        kind="an embedding server",
    )
    host.check()

    def patience(total: float) -> Patience:
        loading = min(settings.llm_loading_timeout, total)
        attempts, retried = settings.llm_max_attempts, metrics.retried("embedding")
        return Patience(attempts=attempts, total=total, loading=loading, retried=retried)

    model = settings.embedding_model
    return ServerEmbedding(
        host,
        None if model == EMBEDDED else model,
        settings.embedding_max_tokens,
        documents=patience(settings.llm_total_timeout),
        queries=patience(min(QUERY_SECONDS, settings.llm_total_timeout)),
        answer_timeout=settings.llm_first_token_timeout,
    )


def _build_shared_library(
    settings: Settings,
    database: str,
    encoder: EncoderLoader,
    reranking: Reranking,
    metrics: Metrics,
) -> Library:
    """One backend of several on the same PostgreSQL and Chroma servers."""
    if settings.chroma_url is None:
        raise StartError(
            "DATABASE_URL needs CHROMA_URL: backends that share a catalog share its vectors. Start "
            "`chroma run --path DIRECTORY` and set CHROMA_URL=http://HOST:8000."
        )
    data = settings.data_dir
    catalog = Catalog(open_postgres(database), owner=new_id("backend_"))
    # Not the folders of the catalog in DATA_DIR: what PostgreSQL does not know is no rubbish there.
    blobs = SharedBlobs(data / "shared-files", settings.max_file_mb * 2**20, catalog)
    vectors = VectorIndex(open_server(settings.chroma_url))
    lexical = FollowedIndex(data / "shared-lexical", catalog)
    reading, readers = _reading(settings)
    encoders = Encoders(encoder, load_embedding)
    indexer = Indexer(catalog, blobs, vectors, lexical, encoders, reading, readers, metrics)
    following = Following(catalog, lexical, blobs, indexer, data / "backend-id")
    retriever = Retriever(catalog, vectors, lexical, encoders, reranking)
    return Library(catalog, blobs, indexer, retriever, following)


def _reading(settings: Settings) -> tuple[ReadingPool, int]:
    """The pool, and how many read at once."""
    readers = max(2, (os.cpu_count() or 2) // 2)  # one is kept for short files
    folder = settings.data_dir / "reading"
    return ReadingPool(readers, settings.read_timeout, settings.read_memory_mb, folder), readers


def _local_model(registry: Registry) -> LLMProvider | None:
    """The model that rewrites and condenses: only ever the local one, never a paid one."""
    return registry.get("local")
