"""Metrics as one JSON object, for people and small scripts that do not speak Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

_SHARES = (0.5, 0.95, 0.99)


def summary(families: Iterable[Metric]) -> dict[str, Any]:
    """`{name: {"type", "help", "values"}}`, under the names that the text format has.

    A counter's or gauge's values are `{labels, "value"}`; a histogram's are `{labels, "count",
    "sum", "mean", "p50", "p95", "p99"}`, the quantiles estimated within their buckets as PromQL's
    `histogram_quantile` does.
    """
    return {
        family.name + ("_total" if family.type == "counter" else ""): {
            "type": family.type,
            "help": family.documentation,
            "values": _distributions(family) if family.type == "histogram" else _numbers(family),
        }
        for family in families
    }


def _numbers(family: Metric) -> list[dict[str, Any]]:
    return [
        {**sample.labels, "value": _plain(sample.value)}
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


def _distributions(family: Metric) -> list[dict[str, Any]]:
    groups: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in family.samples:
        labels = tuple((k, v) for k, v in sample.labels.items() if k != "le")
        groups.setdefault(labels, []).append(sample)
    return [dict(labels) | _distribution(family.name, own) for labels, own in groups.items()]


def _distribution(name: str, samples: Sequence[Sample]) -> dict[str, Any]:
    buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name == f"{name}_bucket"]
    total = next((s.value for s in samples if s.name == f"{name}_sum"), 0.0)
    count = buckets[-1][1] if buckets else 0.0
    found: dict[str, Any] = {"count": _plain(count), "sum": total}
    found["mean"] = total / count if count else None
    return found | {f"p{round(100 * share)}": quantile(buckets, share) for share in _SHARES}


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """The value below which `share` of the observations lie; None without any.

    Args:
        buckets: (upper bound, observations up to it), ascending, the last bound infinite.

    Linear within a bucket; what lies above the last finite bound counts as that bound.
    """
    if not buckets or not buckets[-1][1]:
        return None
    wanted, below, lower = share * buckets[-1][1], 0.0, 0.0
    for upper, up_to in buckets:
        if up_to >= wanted and up_to > below:
            if math.isinf(upper):
                return lower
            return lower + (upper - lower) * (wanted - below) / (up_to - below)
        below, lower = up_to, upper
    return lower


def _plain(value: float) -> float | int:
    return int(value) if math.isfinite(value) and value == int(value) else value
