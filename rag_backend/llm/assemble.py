"""Where the stack of policies is put together: read from the inside out.

    fallback( total( retrying( balanced( token_timeouts(host), … ) ) ), …, extractive )

A breaker belongs around each host, below `Balanced`; caching and routing belong around `chain`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rag_backend.llm.balancing import Balanced
from rag_backend.llm.fallback import Fallback
from rag_backend.llm.openai_compatible import OpenAICompatible
from rag_backend.llm.provider import LLMProvider
from rag_backend.llm.retrying import Retrying
from rag_backend.llm.rows import ProviderRow
from rag_backend.llm.timeouts import TokenTimeouts, TotalTimeout
from rag_backend.patience import Patience
from rag_backend.settings import Settings


def hosts_of(row: ProviderRow, settings: Settings) -> list[OpenAICompatible]:
    """A client for each of the row's hosts; the caller closes them."""
    limit = settings.llm_connect_timeout
    return [OpenAICompatible(row, url, connect_timeout=limit) for url in row.base_urls]


def stack(hosts: Sequence[LLMProvider], settings: Settings) -> LLMProvider:
    """One provider on its hosts, with every policy that concerns it alone."""
    first_token, total = settings.llm_first_token_timeout, settings.llm_total_timeout
    timed = [
        TokenTimeouts(host, first_token=first_token, idle=settings.llm_idle_timeout)
        for host in hosts
    ]
    patience = Patience(
        attempts=settings.llm_max_attempts, hosts=len(timed), total=total, loading=first_token
    )
    retrying = Retrying(Balanced(timed) if len(timed) > 1 else timed[0], patience)
    return TotalTimeout(retrying, total)


def chain(providers: Sequence[LLMProvider]) -> LLMProvider:
    """The chosen provider, and those that answer when it fails."""
    return Fallback(providers) if len(providers) > 1 else providers[0]
