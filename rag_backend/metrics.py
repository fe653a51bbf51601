"""Counters and histograms of one backend, in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


_TENTHS = tuple(n / 10 for n in range(1, 11))


class Metrics:
    """What `/metrics` shows."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
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
        self.answers = Counter(
            "rag_answers_total",
            "Answers by the provider that gave them and how they were grounded",
            ["provider", "grounding"],
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "rag_first_token_seconds",
            "Time to the first content",
            ["provider"],
            buckets=_SECONDS,
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
        self.pending_files = Gauge(
            "rag_pending_files", "Files waiting to be read or written", registry=registry
        )

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
