"""One host of a provider: what asks it, what is known of it, and what must be closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rag_backend.llm.breaker import Circuit
from rag_backend.llm.gauging import Gauge, quantile
from rag_backend.llm.openai_compatible import OpenAICompatible
from rag_backend.llm.provider import LLMProvider
from rag_backend.llm.watching import Watch
from rag_backend.upstream import LOADING

Condition = Literal["untried", "ready", "loading", "degraded", "down"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What `Balanced` chooses among: a provider on one host, and its numbers."""

    provider: LLMProvider
    circuit: Circuit
    gauge: Gauge


@dataclass(frozen=True, slots=True)
class Host:
    """An endpoint and the parts that it is made of."""

    endpoint: Endpoint
    client: OpenAICompatible
    watch: Watch

    async def aclose(self) -> None:
        """Stop looking after it and close every connection."""
        await self.watch.aclose()
        await self.client.aclose()

    def info(self) -> dict[str, Any]:
        """Its numbers, for people; `last_error` is a sentence without secrets, or None."""
        circuit, gauge = self.endpoint.circuit, self.endpoint.gauge
        return {
            "base_url": self.client.url,
            "breaker": circuit.state,
            "failures_in_a_row": circuit.failures,
            "last_error": str(circuit.last_error) if circuit.last_error else None,
            "in_flight": gauge.in_flight,
            "answers": gauge.answers,
            "failures": gauge.failures,
            "latency": latency([gauge]),
        }


def latency(gauges: Sequence[Gauge]) -> dict[str, float | None]:
    """Quantiles of the time to the first token in milliseconds, over each host's last answers."""
    seconds = [value for gauge in gauges for value in gauge.first_tokens]
    found = {f"first_token_p{share}_ms": quantile(seconds, share / 100) for share in (50, 95)}
    return {k: None if v is None else round(1000 * v, 1) for k, v in found.items()}


def condition(hosts: Sequence[Host]) -> Condition:
    """What a person wants to know first of a provider on these hosts."""
    circuits = [host.endpoint.circuit for host in hosts]
    closed = [circuit for circuit in circuits if circuit.state == "closed"]
    if not closed:
        return "down"
    errors = [circuit.last_error for circuit in closed]
    if all(error is not None and error.code == LOADING for error in errors):
        return "loading"
    if len(closed) < len(circuits) or any(errors):
        return "degraded"
    return "ready" if any(host.endpoint.gauge.answers for host in hosts) else "untried"
