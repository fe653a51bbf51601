"""Metrics as JSON, and what Prometheus' own parser makes of the text."""

from __future__ import annotations

import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from rag_backend.llm.collecting import HostsCollector
from rag_backend.metrics import Metrics
from rag_backend.summarising import quantile, summary


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.requests.labels("/v1/models", "200").inc(3)
    for seconds in (0.02, 0.02, 0.2, 2.0):
        made.answer_seconds.labels("local").observe(seconds)
    host = {"base_url": "http://a:1/v1", "breaker": "open", "in_flight": 1, "answers": 2}
    row = {"name": "local", "hosts": [host | {"failures": 3}, host | {"failures": 4}]}
    made.add(HostsCollector(lambda: [row]))
    return made


def test_the_text_is_what_prometheus_reads(metrics: Metrics) -> None:
    families = {f.name: f for f in prometheus(metrics.exposition().decode())}
    assert families["rag_requests"].samples[0].value == 3
    open_ones = [s.labels["host"] for s in families["rag_breaker_state"].samples if s.value]
    assert open_ones == ["http://a:1/v1", "http://a:1/v1 (2)"]
    body, kind = metrics.encoded("application/openmetrics-text;version=1.0.0,text/plain;q=0.4")
    assert kind.startswith("application/openmetrics-text")
    assert {f.name for f in openmetrics(body.decode())} >= {"rag_requests", "rag_ready"}


def test_names_follow_the_conventions(metrics: Metrics) -> None:
    for family in metrics.families():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name), family.name
        assert family.documentation
        assert not re.search(r"_(ms|millis|minutes|kb|mb)\b", family.name)
        seen = [(s.name, tuple(sorted(s.labels.items()))) for s in family.samples]
        assert len(seen) == len(set(seen)), f"{family.name} says something twice"
        if family.type == "gauge":
            assert not family.name.endswith("_total")


def test_the_summary_says_the_same(metrics: Metrics) -> None:
    found = summary(metrics.families())
    assert found["rag_requests_total"]["values"] == [
        {"route": "/v1/models", "status": "200", "value": 3}
    ]
    (row,) = found["rag_answer_seconds"]["values"]
    assert (row["provider"], row["count"]) == ("local", 4)
    assert row["mean"] == pytest.approx(0.56)
    assert 0.01 < row["p50"] <= 0.025
    assert 1 < row["p99"] <= 2.5
    assert found["rag_upstream_failures_total"]["values"][1]["value"] == 4


def test_quantiles_as_promql_has_them() -> None:
    buckets = [(1.0, 2.0), (2.0, 4.0), (float("inf"), 5.0)]
    assert quantile(buckets, 0.2) == 0.5
    assert quantile(buckets, 0.6) == 1.5
    assert quantile(buckets, 0.99) == 2.0
    assert quantile([], 0.5) is None
    assert quantile([(float("inf"), 0.0)], 0.5) is None
