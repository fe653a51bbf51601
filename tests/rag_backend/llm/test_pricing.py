"""What was spent and saved: the sum is the baseline, whoever answered."""

from __future__ import annotations

import random
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rag_backend.llm.prices import FREE, Price
from rag_backend.llm.pricing import Money
from rag_backend.metrics import Metrics

STRONG = Price(2.0, 8.0, 0.5)
PRICES: dict[str, Price | None] = {
    "openai": STRONG,
    "local": FREE,
    "dear": Price(10, 30, 10),
    "who knows": None,
}


class Counted:
    """Money, and what the metrics say of it."""

    def __init__(self, baseline: str = "openai") -> None:
        self.metrics = Metrics()
        self.money = Money(lambda name, _: PRICES[name], baseline, self.metrics)

    def answered(self, provider: str, sent: int, got: int, spared: int = 0, **more: Any) -> None:
        usage = {"prompt_tokens": sent, "completion_tokens": got, **more}
        self.money.answered(provider, "m", usage, spared)

    def total(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(self.metrics.exposition().decode())
        samples = [s for family in families for s in family.samples if s.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def saved(self, by: str) -> float:
        return self.total("rag_saved_usd_total", by=by)


def test_the_strong_one_saves_by_condensing_only() -> None:
    counted = Counted()
    counted.answered("openai", 1000, 100, spared=3000)
    assert counted.total("rag_spent_usd_total", provider="openai") == pytest.approx(0.0028)
    assert counted.total("rag_baseline_usd_total", baseline="openai") == pytest.approx(0.0088)
    assert counted.saved("condensing") == pytest.approx(0.006)
    assert counted.saved("routing") == 0


def test_a_free_model_saves_everything() -> None:
    counted = Counted()
    counted.answered("local", 1000, 100, spared=1000)
    assert counted.total("rag_spent_usd_total") == 0
    assert counted.saved("routing") == pytest.approx(0.0028)
    assert counted.saved("condensing") == pytest.approx(0.002)


def test_what_the_upstream_had_cached_is_cheaper() -> None:
    counted = Counted()
    counted.answered("openai", 1000, 0, prompt_tokens_details={"cached_tokens": 600})
    assert counted.total("rag_spent_usd_total") == pytest.approx(0.0011)
    assert counted.saved("upstream_cache") == pytest.approx(0.0009)


@pytest.mark.parametrize(
    "details", [None, {}, {"cached_tokens": None}, {"cached_tokens": "6"}, {"cached_tokens": -5}]
)
def test_odd_reports_are_no_discount(details: Any) -> None:
    counted = Counted()
    counted.answered("openai", 1000, 0, prompt_tokens_details=details)
    assert counted.total("rag_spent_usd_total") == pytest.approx(0.002)


def test_a_dearer_one_overspends() -> None:
    counted = Counted()
    counted.answered("dear", 1000, 100)
    assert counted.total("rag_overspent_usd_total") == pytest.approx(0.013 - 0.0028)
    assert counted.saved("routing") == 0


def test_an_answer_given_again() -> None:
    counted = Counted()
    counted.money.spared({"prompt_tokens": 1000, "completion_tokens": 100}, 500)
    assert counted.saved("caching") == pytest.approx(0.0038)
    assert counted.total("rag_spent_usd_total") == 0


def test_without_a_price_tokens_are_counted_and_nothing_is_guessed() -> None:
    counted = Counted()
    counted.answered("who knows", 70, 7, spared=5)
    assert counted.total("rag_unpriced_tokens_total", direction="in") == 70
    assert counted.total("rag_unpriced_tokens_total", direction="out") == 7
    for name in ("spent", "baseline", "saved", "overspent"):
        assert counted.total(f"rag_{name}_usd_total") == 0


def test_without_the_baselines_price_only_what_was_spent_is_known() -> None:
    counted = Counted(baseline="who knows")
    counted.answered("openai", 1000, 100)
    counted.money.spared({"prompt_tokens": 1000}, 0)
    assert counted.total("rag_spent_usd_total") == pytest.approx(0.0028)
    assert counted.total("rag_baseline_usd_total") == 0


def test_the_sum_is_exact() -> None:
    dice, counted = random.Random(5), Counted()
    for _ in range(500):
        sent, got, spared = (dice.randrange(5000) for _ in range(3))
        kept = {"cached_tokens": dice.randrange(5000)}
        provider = dice.choice(("openai", "local", "dear", "cache"))
        if provider == "cache":
            counted.money.spared({"prompt_tokens": sent, "completion_tokens": got}, spared)
        else:
            counted.answered(provider, sent, got, spared, prompt_tokens_details=kept)
    spent, saved, over, baseline = (
        counted.total(f"rag_{name}_usd_total")
        for name in ("spent", "saved", "overspent", "baseline")
    )
    assert spent + saved - over == pytest.approx(baseline)
