"""The real encoder, once; reading processes, once; a library in a temporary directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rag_backend.knowledge.embedding import EmbeddingProvider, load_embedding
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.reading import ReadingPool
from tests.rag_backend.knowledge.building import KeptReading, opened_library


@pytest.fixture(scope="session")
def embedding() -> EmbeddingProvider:
    """MiniLM, as packaged."""
    return load_embedding("embedded")


@pytest.fixture(scope="session")
def reading() -> Iterator[ReadingPool]:
    """One worker process for the whole run."""
    pool = KeptReading(1, timeout=60, memory_mb=1024)
    yield pool
    pool.really_close()


@pytest.fixture
async def library(
    tmp_path: Path, embedding: EmbeddingProvider, reading: ReadingPool
) -> AsyncIterator[Library]:
    """An empty library with its `default` store, indexing in the background."""
    async with opened_library(tmp_path / "data", embedding, reading) as opened:
        yield opened
