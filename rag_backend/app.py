"""The one place where the backend's parts are built and wired."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from rag_backend.answering.condensing import Condenser
from rag_backend.answering.pipeline import Pipeline
from rag_backend.api import (
    chat,
    embeddings,
    failures,
    files,
    models,
    operations,
    vector_stores,
)
from rag_backend.api.middleware import RequestMiddleware
from rag_backend.api.parts import Parts
from rag_backend.errors import StartError
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.embedding import load_embedding
from rag_backend.knowledge.encoder import EncoderLoader
from rag_backend.knowledge.followed import FollowedIndex
from rag_backend.knowledge.following import Following
from rag_backend.knowledge.indexer import Indexer
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import new_id
from rag_backend.knowledge.reading import ReadingPool
from rag_backend.knowledge.retriever import Retriever
from rag_backend.knowledge.shared_blobs import SharedBlobs
from rag_backend.knowledge.sql.opening import open_postgres, open_sqlite
from rag_backend.knowledge.vectors import open_embedded, open_server
from rag_backend.llm.provider import LLMProvider
from rag_backend.llm.registry import Registry, build_registry
from rag_backend.metrics import Metrics
from rag_backend.settings import Settings

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
            closing.push_async_callback(parts.library.stop)
            closing.push_async_callback(parts.encoder.stop)
            parts.encoder.start()
            await parts.library.start()
            if started is not None:
                started(parts)
            yield

    # Not FastAPI's own: its /docs is empty where the internet cannot be reached.
    app = FastAPIOffline(
        redoc_url=None, title="RAG backend", version=version("rag-backend"), lifespan=lifespan
    )
    app.state.parts = parts
    for module in (chat, models, files, vector_stores, embeddings, operations):
        app.include_router(module.router)
    failures.install(app)
    keys = [key.get_secret_value() for key in settings.api_keys]
    app.add_middleware(RequestMiddleware, keys=keys, metrics=parts.metrics)
    return app


def build_parts(settings: Settings) -> Parts:
    """Every part of one backend, from the bottom up."""
    metrics = Metrics()
    registry = build_registry(settings)
    encoder = EncoderLoader(lambda: load_embedding(settings.embedding_model))
    library = _build_library(settings, encoder)
    local = _local_model(registry)
    condenser = Condenser(settings.condense, settings.context_tokens, local)
    pipeline = Pipeline(library, condenser, local, settings.no_answer, metrics)
    return Parts(settings, library, encoder, registry, pipeline, metrics)


def _build_library(settings: Settings, encoder: EncoderLoader) -> Library:
    data = settings.data_dir
    data.mkdir(parents=True, exist_ok=True)
    if settings.database_url is not None:
        return _build_shared_library(settings, settings.database_url.get_secret_value(), encoder)
    catalog = Catalog(open_sqlite(data / "catalog.sqlite"))
    blobs = Blobs(data / "files", settings.max_file_mb * 2**20)
    url = settings.chroma_url
    vectors = open_server(url) if url else open_embedded(data / "chroma")
    lexical = LexicalIndex(data / "lexical")
    reading, readers = _reading(settings)
    indexer = Indexer(catalog, blobs, vectors, lexical, encoder, reading, readers)
    return Library(catalog, blobs, indexer, Retriever(catalog, vectors, lexical, encoder))


def _build_shared_library(settings: Settings, database: str, encoder: EncoderLoader) -> Library:
    """One backend of several on the same PostgreSQL and Chroma servers."""
    if settings.chroma_url is None:
        raise StartError(
            "DATABASE_URL needs CHROMA_URL: backends that share a catalog share its vectors. Start "
            "`chroma run --path DIRECTORY` and set CHROMA_URL=http://HOST:8000."
        )
    data = settings.data_dir
    catalog = Catalog(open_postgres(database), owner=new_id("backend_"))
    blobs = SharedBlobs(data / "files", settings.max_file_mb * 2**20, catalog)
    vectors = open_server(settings.chroma_url)
    lexical = FollowedIndex(data / "lexical", catalog)
    reading, readers = _reading(settings)
    indexer = Indexer(catalog, blobs, vectors, lexical, encoder, reading, readers)
    following = Following(catalog, lexical, blobs, indexer, data / "backend-id")
    retriever = Retriever(catalog, vectors, lexical, encoder)
    return Library(catalog, blobs, indexer, retriever, following)


def _reading(settings: Settings) -> tuple[ReadingPool, int]:
    """The pool, and how many read at once."""
    readers = max(1, (os.cpu_count() or 2) // 2)
    return ReadingPool(readers, settings.read_timeout, settings.read_memory_mb), readers


def _local_model(registry: Registry) -> LLMProvider | None:
    """The model that rewrites and condenses: only ever the local one, never a paid one."""
    return registry.get("local")
