"""What each dependency is looked at by. Nothing here costs money or writes anything."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from rag_backend.errors import CacheUnavailable, UpstreamMisconfigured
from rag_backend.knowledge.encoder import EncoderLoader
from rag_backend.knowledge.library import DEFAULT_STORE, Library
from rag_backend.knowledge.reranking import Reranking
from rag_backend.llm.cache.backing import Backing
from rag_backend.llm.hosts import Host
from rag_backend.llm.probing import Reachability, probe_host
from rag_backend.llm.registry import Registry
from rag_backend.llm.rows import ProviderRow
from rag_backend.metrics import Metrics
from rag_backend.readiness import Alone, Coming, Dependency, Failing
from rag_backend.settings import Settings
from rag_backend.upstream import LOADING

LEAST_FREE = 512 * 2**20
"""Bytes that should be free where DATA_DIR is: a large file is written twice on its way in."""


def dependencies(
    settings: Settings,
    library: Library,
    encoder: EncoderLoader,
    reranking: Reranking,
    registry: Registry,
    backing: Backing | None,
) -> list[Dependency]:
    """All of them. A search that has just worked speaks for the first four."""
    searched = library.last_search

    def catalog() -> str:
        library.catalog.store(DEFAULT_STORE)
        return "answers"

    def chroma() -> str:
        library.check_vectors()
        return "answers"

    def tantivy() -> str:
        store = library.catalog.store(DEFAULT_STORE)
        library.check_words(store)
        return "answers"

    found = [
        Dependency("catalog", _threaded(catalog), served=searched),
        Dependency("chroma", _threaded(chroma), served=searched),
        Dependency("tantivy", _threaded(tantivy), served=searched),
        Dependency("encoder", partial(_encoder, encoder), served=searched),
        Dependency("disk", _threaded(partial(_disk, settings.data_dir)), essential=False),
    ]
    if library.following is not None:
        found.append(Dependency("word index", partial(_arriving, library)))
    if settings.reranker_model:
        look = partial(_reranker, reranking)
        found.append(Dependency("reranker", look, essential=False))
    if backing is not None:
        look = partial(_cache, backing)
        found.append(Dependency("cache", look, essential=False, served=backing.served))
    return found + provider_dependencies(registry)


async def _arriving(library: Library) -> str:
    if library.arriving:
        raise Coming(library.arriving)
    return "whole"


async def count_files(library: Library, metrics: Metrics) -> None:
    """Set the gauge of files by status."""
    counts = await asyncio.to_thread(library.catalog.status_counts)
    for status in ("in_progress", "completed", "cancelled", "failed"):
        metrics.files.labels(status).set(counts.get(status, 0))


def provider_dependencies(registry: Registry) -> list[Dependency]:
    """A dependency a host. Those that answer the next question, or stand in, are one group."""
    info = [row for row in registry.info() if registry.has(row["name"])]  # not who only chooses
    answering = {row["name"] for row in info if row["fallback"]} | {
        *registry.choices(registry.chosen)
    }
    found = []
    for row in info:
        name, needed = row["name"], row["name"] in answering or not answering
        group = "providers" if needed else None
        hosts = registry.hosts(name)
        if not hosts:
            found.append(Dependency(f"provider {name}", _always, needed, group))
        for number, host in enumerate(hosts, 1):
            label = f"provider {name}" + (f" host {number}" if len(hosts) > 1 else "")
            look = partial(_host, registry, name, host)
            found.append(Dependency(label, look, needed, group, partial(_answered, host)))
    return found


def _threaded(look: Callable[[], str]) -> Callable[[], Awaitable[str]]:
    return partial(asyncio.to_thread, look)


async def _always() -> str:
    return "needs no server"


def _answered(host: Host) -> float | None:
    """When it last gave a whole answer, unless it has failed since."""
    gauge, circuit = host.endpoint.gauge, host.endpoint.circuit
    return gauge.last_answer if circuit.last_error is None else None


async def _host(registry: Registry, name: str, host: Host) -> str:
    circuit = host.endpoint.circuit
    if not registry.has(name):
        raise Failing("was removed")
    if circuit.state == "open":  # which somebody looks after already
        raise Failing(str(circuit.last_error))
    if circuit.last_error is not None and circuit.last_error.code == LOADING:
        raise Coming(str(circuit.last_error))
    found = await probe_host(registry.row(name), host.client)
    if not found.reached:
        failure = Coming if found.loading else Failing
        # A key that is refused is stood in for by another host alone, where it is asked first.
        if found.refused and name == registry.chosen and len(registry.hosts(name)) == 1:
            failure = Alone
        raise failure(f"{found.detail}. {found.remedy}".strip())
    error = circuit.last_error
    if isinstance(error, UpstreamMisconfigured) and not _mended(registry.row(name), error, found):
        # Of one question: unready it would never be asked another, and never be well again.
        raise Failing(str(error))
    return found.detail


def _mended(row: ProviderRow, error: UpstreamMisconfigured, found: Reachability) -> bool:
    """Whether a look shows that what the last question met is over; else a question will.

    Servers of a LAN want the same key for their list of models; on the internet some show it to
    everybody.
    """
    return found.listed and (error.status == 404 or not row.cloud)


async def _encoder(encoder: EncoderLoader) -> str:
    if encoder.ready:
        return "loaded"
    if encoder.problem is None:
        raise Coming("is still loading")
    raise Failing(encoder.problem)


async def _reranker(reranking: Reranking) -> str:
    if reranking.ready:
        return "loaded"
    raise Coming("is not loaded; results keep their fused order")


async def _cache(backing: Backing) -> str:
    try:
        await backing.check()
    except CacheUnavailable as error:
        raise Failing(f"{error} Answers go on without it.") from error
    return "answers"


def _disk(folder: Path) -> str:
    usage = shutil.disk_usage(folder)
    free = f"{usage.free / 2**30:.1f} GiB free"
    if usage.free < LEAST_FREE:
        raise Failing(f"{free} where DATA_DIR is: free some space, or new files will fail.")
    return free
