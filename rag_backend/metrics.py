"""Counters and histograms of one backend, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rag_backend.notes import notes

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TENTHS = tuple(n / 10 for n in range(1, 11))


class Metrics:
    """What `/metrics` shows."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._add_requests(registry)
        self._add_answering(registry)
        self._add_times(registry)
        self._add_failures(registry)
        self._add_cache(registry)
        self._add_routing(registry)
        self._add_money(registry)
        self._add_queue(registry)
        self._add_ingestion(registry)
        self._add_dependencies(registry)
        ProcessCollector(registry=registry)

    def _add_requests(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "rag_requests_total", "HTTP requests", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "rag_request_seconds",
            "Time to the last byte",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )

    def _add_answering(self, registry: CollectorRegistry) -> None:
        self.answers = Counter(
            "rag_answers_total",
            "Answers by the provider that gave them and how they were grounded",
            ["provider", "grounding"],
            registry=registry,
        )
        self.tokens = Counter(
            "rag_tokens_total", "Tokens by direction", ["provider", "direction"], registry=registry
        )
        self.condensed_tokens = Counter(
            "rag_condensed_tokens_total",
            "Estimated tokens of passages before and after condensing",
            ["method", "when"],
            registry=registry,
        )

    def _add_times(self, registry: CollectorRegistry) -> None:
        """What a question waits for, in seconds."""
        self.first_token_seconds = Histogram(
            "rag_first_token_seconds",
            "Time to the first content",
            ["provider"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.answer_seconds = Histogram(
            "rag_answer_seconds",
            "Time from asking a provider to its whole answer",
            ["provider"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "rag_stage_seconds",
            "Time that a question spent in a stage before a provider was asked",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )

    def _add_failures(self, registry: CollectorRegistry) -> None:
        """What clients got, and what was made up for."""
        self.errors = Counter(
            "rag_errors_total",
            "Errors that clients got, by class (rag_backend/errors.py; `defect`: unexpected)",
            ["class"],
            registry=registry,
        )
        self.retries = Counter(
            "rag_retries_total",
            "Times that an upstream was asked again after a failure",
            ["provider"],
            registry=registry,
        )
        self.fallbacks = Counter(
            "rag_fallbacks_total",
            "Answers that a provider gave in place of one that had failed",
            ["failed", "answered"],
            registry=registry,
        )

    def _add_cache(self, registry: CollectorRegistry) -> None:
        self.cached = Counter(
            "rag_cache_requests_total",
            "Chat requests by how the answer cache served them: hit, miss, shared, bypass",
            ["outcome"],
            registry=registry,
        )
        self.cache_events = Counter(
            "rag_cache_events_total",
            "What happened to kept answers: stored, replaced, evicted, expired, too_large, "
            "unfit, garbage, error",
            ["event"],
            registry=registry,
        )
        self.cache_saved_tokens = Counter(
            "rag_cache_saved_tokens_total",
            "Tokens of answers that no provider had to give again",
            ["provider", "direction"],
            registry=registry,
        )
        self.cache_bytes = Gauge(
            "rag_cache_bytes", "Bytes of answers kept in memory", registry=registry
        )
        self.cache_entries = Gauge("rag_cache_entries", "Answers kept in memory", registry=registry)

    def _add_routing(self, registry: CollectorRegistry) -> None:
        self.routed = Counter(
            "rag_routed_total",
            "Requests under LLM_PROVIDER=smart, by the provider and by what decided for it: named, "
            "task, context, features, score, overflow",
            ["provider", "rule"],
            registry=registry,
        )
        self.route_reasons = Counter(
            "rag_route_reasons_total",
            "Reasons of routes; a route may have several",
            ["provider", "reason"],
            registry=registry,
        )
        self.route_scores = Histogram(
            "rag_route_score",
            "How hard questions looked, 0 to 1",
            buckets=_TENTHS,
            registry=registry,
        )
        self.route_threshold = Gauge(
            "rag_route_threshold",
            "Score above which the last question would have gone to the strong provider",
            registry=registry,
        )

    def _add_money(self, registry: CollectorRegistry) -> None:
        self.spent_usd = Counter(
            "rag_spent_usd_total",
            "US dollars that answers cost, where the price is known",
            ["provider"],
            registry=registry,
        )
        self.baseline_usd = Counter(
            "rag_baseline_usd_total",
            "US dollars that the same answers would have cost, had every question gone uncondensed "
            "and uncached to the provider in the label",
            ["baseline"],
            registry=registry,
        )
        self.saved_usd = Counter(
            "rag_saved_usd_total",
            "US dollars saved of that baseline by condensing, caching, routing (a cheaper provider "
            "answered), upstream_cache (the provider's own)",
            ["by", "baseline"],
            registry=registry,
        )
        self.overspent_usd = Counter(
            "rag_overspent_usd_total",
            "US dollars that answers of dearer providers cost above that baseline",
            ["baseline"],
            registry=registry,
        )
        self.unpriced_tokens = Counter(
            "rag_unpriced_tokens_total",
            "Tokens of answers whose price is not known: no sum of dollars contains them",
            ["provider", "direction"],
            registry=registry,
        )

    def _add_queue(self, registry: CollectorRegistry) -> None:
        """By kind (questions, uploads). Read when they are asked for: whoever limits requests sets
        functions (`set_function`)."""
        self.requests_running = Gauge(
            "rag_requests_running", "Requests that hold a place", ["kind"], registry=registry
        )
        self.requests_waiting = Gauge(
            "rag_requests_waiting", "Requests in the queue for one", ["kind"], registry=registry
        )
        self.requests_refused = Counter(
            "rag_requests_refused_total",
            "Requests that found the queue full (429)",
            ["kind"],
            registry=registry,
        )

    def _add_ingestion(self, registry: CollectorRegistry) -> None:
        self.pending_files = Gauge(
            "rag_pending_files", "Files waiting to be read or written", registry=registry
        )
        self.files = Gauge(
            "rag_files",
            "Files in vector stores by status, as last counted (every HEALTH_INTERVAL)",
            ["status"],
            registry=registry,
        )
        self.files_indexed = Counter(
            "rag_files_indexed_total",
            "Files that this backend has taken in: completed, failed",
            ["outcome"],
            registry=registry,
        )
        self.chunks_indexed = Counter(
            "rag_chunks_indexed_total",
            "Chunks of files that this backend has completed",
            registry=registry,
        )
        self.ingest_seconds = Counter(
            "rag_ingest_seconds_total",
            "Time spent in each stage of taking files in: read, embed, write",
            ["stage"],
            registry=registry,
        )

    def _add_dependencies(self, registry: CollectorRegistry) -> None:
        self.ready = Gauge(
            "rag_ready", "Whether questions can be answered (/health/ready)", registry=registry
        )
        self.dependency_up = Gauge(
            "rag_dependency_up",
            "Whether a dependency was well when it was last heard of",
            ["dependency"],
            registry=registry,
        )
        self.outages = Counter(
            "rag_dependency_outages_total",
            "Times that a dependency which had been well was found failing",
            ["dependency"],
            registry=registry,
        )
        info = Gauge("rag_build_info", "The running version", ["version"], registry=registry)
        info.labels(version("rag-backend")).set(1)

    def add(self, collector: Collector) -> None:
        """Show what a collector reads off somewhere else; it is asked at every scrape."""
        self._registry.register(collector)

    def retried(self, provider: str) -> Callable[[], None]:
        """What to call whenever this upstream is asked again."""
        counter = self.retries.labels(provider)

        def count() -> None:
            counter.inc()
            notes().retries += 1

        return count

    def fell_back(self, failed: Iterable[str], answered: str) -> None:
        """One provider answers for others that have failed."""
        names = tuple(failed)
        for name in names:
            self.fallbacks.labels(name, answered).inc()
        notes().fallbacks = names

    def in_stage(self, stage: str, seconds: float) -> None:
        """A question has passed a stage."""
        self.stage_seconds.labels(stage).observe(seconds)

    def spent(self, stage: str, seconds: float) -> None:
        """Ingestion has worked for so long."""
        self.ingest_seconds.labels(stage).inc(seconds)

    def families(self) -> Iterable[Metric]:
        """Every metric with its samples of now."""
        return self._registry.collect()

    def exposition(self, accept: str = "") -> bytes:
        """Prometheus' text format, or OpenMetrics where the Accept header asks for it."""
        return self.encoded(accept)[0]

    def encoded(self, accept: str) -> tuple[bytes, str]:
        """The body and its content type."""
        encode, content_type = choose_encoder(accept)
        body: Any = encode(self._registry)
        return bytes(body), content_type
