"""What answers cost, and what condensing, caching and routing saved of it.

Everything is measured against one baseline: had every question gone uncondensed and uncached to
one provider, the strong one. For each answer

    baseline = spent + saved by condensing + saved by routing + saved by the upstream's own cache
    baseline = saved by caching                             (an answer that was given again)

and where an answer cost more than its baseline, the difference is counted as overspent. Tokens are
taken to be as many at the baseline's model as at the one that answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rag_backend.llm.prices import Price
from rag_backend.metrics import Metrics

Prices = Callable[[str, str | None], Price | None]
"""A provider's price when it answered with a model of this name; None where it is not known."""


class Money:
    """Counts dollars. Answers without a known price are counted in tokens, and never guessed."""

    def __init__(self, prices: Prices, baseline: str, metrics: Metrics) -> None:
        """`baseline`: name of the provider that everything could have gone to."""
        self._prices = prices
        self._baseline = baseline
        self._metrics = metrics

    def answered(self, provider: str, model: str, usage: Mapping[str, Any], spared: int) -> None:
        """A provider gave an answer.

        Args:
            usage: As the provider reported it, `prompt_tokens_details.cached_tokens` included.
            spared: Tokens that condensing took out of the prompt.
        """
        sent, got = _counts(usage)
        price = self._prices(provider, model)
        if price is None:
            self._unpriced(provider, sent, got)
            return
        paid = price.of(sent, got, _kept(usage, sent))
        self._metrics.spent_usd.labels(provider).inc(paid)
        baseline = self._prices(self._baseline, None)
        if baseline is None:
            return
        self._metrics.baseline_usd.labels(self._baseline).inc(baseline.of(sent + spared, got))
        self._save("condensing", baseline.of(spared, 0))
        by = "upstream_cache" if provider == self._baseline else "routing"
        self._save(by, baseline.of(sent, got) - paid)

    def spared(self, usage: Mapping[str, Any], spared: int) -> None:
        """An answer was given again; `usage` and `spared` of the first time."""
        baseline = self._prices(self._baseline, None)
        if baseline is None:
            return
        sent, got = _counts(usage)
        cost = baseline.of(sent + spared, got)
        self._metrics.baseline_usd.labels(self._baseline).inc(cost)
        self._save("caching", cost)

    def _save(self, by: str, dollars: float) -> None:
        if dollars >= 0:
            self._metrics.saved_usd.labels(by, self._baseline).inc(dollars)
        else:
            self._metrics.overspent_usd.labels(self._baseline).inc(-dollars)

    def _unpriced(self, provider: str, sent: int, got: int) -> None:
        self._metrics.unpriced_tokens.labels(provider, "in").inc(sent)
        self._metrics.unpriced_tokens.labels(provider, "out").inc(got)


def _counts(usage: Mapping[str, Any]) -> tuple[int, int]:
    return _number(usage.get("prompt_tokens")), _number(usage.get("completion_tokens"))


def _kept(usage: Mapping[str, Any], sent: int) -> int:
    details = usage.get("prompt_tokens_details")
    kept = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    return min(sent, _number(kept))


def _number(value: object) -> int:
    """A count as an upstream reports it: servers leave it out, or send null."""
    return value if isinstance(value, int) and value > 0 else 0
