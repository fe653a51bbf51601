"""What the providers' hosts know of themselves, as metrics, read off when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_STATES = ("closed", "half-open", "open")


class HostsCollector(Collector):
    """Breakers, requests in flight and outcomes of each host; nothing is counted twice."""

    def __init__(self, info: Callable[[], list[dict[str, Any]]]) -> None:
        """`info` is the registry's."""
        self._info = info

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        place = ["provider", "host"]
        breaker = GaugeMetricFamily(
            "rag_breaker_state",
            "1 for the state that a host's breaker is in: closed, half-open, open",
            labels=[*place, "state"],
        )
        in_flight = GaugeMetricFamily(
            "rag_upstream_in_flight", "Requests that a host is answering", labels=place
        )
        answers = CounterMetricFamily(
            "rag_upstream_answers", "Whole answers that a host gave", labels=place
        )
        failures = CounterMetricFamily(
            "rag_upstream_failures", "Requests that a host failed, each attempt", labels=place
        )
        for provider, name, host in self._hosts():
            for state in _STATES:
                breaker.add_metric([provider, name, state], float(host["breaker"] == state))
            in_flight.add_metric([provider, name], host["in_flight"])
            answers.add_metric([provider, name], host["answers"])
            failures.add_metric([provider, name], host["failures"])
        return (breaker, in_flight, answers, failures)

    def _hosts(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """(provider, host, its numbers); two that look the same without their secrets differ."""
        for row in self._info():
            seen: dict[str, int] = {}
            for host in row["hosts"]:
                url = str(host["base_url"])
                seen[url] = count = seen.get(url, 0) + 1
                yield row["name"], url if count == 1 else f"{url} ({count})", host
