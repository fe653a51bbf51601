"""Where the stack of policies is put together: read from the inside out.

    fallback( total( retrying( balanced( host, … ) ) ), …, extractive )
    host = breaker( gauged( token_timeouts( client ) ) )

    routing( fallback( overflowing( local, strong ), … ), fallback( strong, … ) )

`host_of` builds what concerns one host, `stack` one provider on its hosts, `chain` the providers
that stand in for each other, `routing` the choice between two of them. Caching stands around the
pipeline (`answering/caching.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rag_backend.llm.balancing import Balanced
from rag_backend.llm.breaker import Breaker, Circuit
from rag_backend.llm.fallback import Fallback
from rag_backend.llm.gauging import Gauge, Gauged
from rag_backend.llm.hosts import Endpoint, Host
from rag_backend.llm.openai_compatible import OpenAICompatible
from rag_backend.llm.probing import answers
from rag_backend.llm.provider import LLMProvider
from rag_backend.llm.retrying import Retrying
from rag_backend.llm.routing import Overflowing, Router, Routing
from rag_backend.llm.rows import ProviderRow
from rag_backend.llm.timeouts import TokenTimeouts, TotalTimeout
from rag_backend.llm.watching import Watch
from rag_backend.metrics import Metrics
from rag_backend.patience import Patience
from rag_backend.settings import Settings


def host_of(row: ProviderRow, url: str, settings: Settings) -> Host:
    """One of the row's hosts, with every policy that concerns it alone; the caller closes it."""
    client = OpenAICompatible(row, url, connect_timeout=settings.llm_connect_timeout)
    first_token, idle = settings.llm_first_token_timeout, settings.llm_idle_timeout
    interval = settings.llm_probe_interval
    circuit, gauge = Circuit(settings.llm_breaker_threshold, interval), Gauge()
    timed = TokenTimeouts(client, first_token=first_token, idle=idle)
    endpoint = Endpoint(Breaker(Gauged(timed, gauge), circuit), circuit, gauge)
    return Host(endpoint, client, Watch(circuit, partial(answers, client), interval))


def stack(hosts: Sequence[Endpoint], settings: Settings, metrics: Metrics) -> LLMProvider:
    """One provider on its hosts, with every policy that concerns it as a whole."""
    total = settings.llm_total_timeout
    patience = Patience(
        attempts=settings.llm_max_attempts,
        hosts=len(hosts),
        total=total,
        loading=settings.llm_loading_timeout,
        retried=metrics.retried(hosts[0].provider.name),
    )
    retrying = Retrying(Balanced(hosts) if len(hosts) > 1 else hosts[0].provider, patience)
    return TotalTimeout(retrying, total)


def chain(providers: Sequence[LLMProvider], metrics: Metrics) -> LLMProvider:
    """The chosen provider, and those that answer when it fails."""
    return Fallback(providers, metrics.fell_back) if len(providers) > 1 else providers[0]


def routing(
    name: str,
    router: Router,
    local: LLMProvider,
    strong: LLMProvider,
    stand_ins: Sequence[LLMProvider],
    strong_chain: LLMProvider,
    metrics: Metrics,
) -> LLMProvider:
    """The choice between two providers; `stand_ins` answer when the local one fails.

    The strong one stands in for the local one only where a prompt is too long for it, or where
    it is among the `stand_ins`: a LAN that is down is no reason to send questions out of it.
    """
    local_chain = chain([Overflowing(local, strong, router.routed), *stand_ins], metrics)
    return Routing(name, router, {local.name: local_chain, strong.name: strong_chain})
