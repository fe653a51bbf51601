"""CACHE_URL → where answers are kept."""

from __future__ import annotations

from rag_backend.llm.cache.backing import Backing
from rag_backend.llm.cache.memory import MemoryBacking
from rag_backend.llm.cache.redis import RedisBacking
from rag_backend.metrics import Metrics
from rag_backend.settings import Settings
from rag_backend.values import IN_MEMORY


def open_backing(settings: Settings, metrics: Metrics) -> Backing | None:
    """None where CACHE_URL=none switches the cache off. No connection is made yet.

    Raises:
        StartError: CACHE_URL cannot be used; one line.
    """
    if settings.cache_url == "none":
        return None
    if settings.cache_url == IN_MEMORY:
        return MemoryBacking(
            metrics,
            ttl=settings.cache_ttl,
            max_bytes=settings.cache_max_mb * 2**20,
            max_entries=settings.cache_max_entries,
        )
    return RedisBacking(settings.cache_url, metrics, ttl=settings.cache_ttl)
