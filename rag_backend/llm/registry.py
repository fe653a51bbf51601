"""Which providers there are, which one answers, and who owns their connections."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rag_backend.errors import Conflict, NotFound, StartError
from rag_backend.llm.assemble import chain, host_of, routing, stack
from rag_backend.llm.extractive import Extractive
from rag_backend.llm.hosts import Host, condition, latency
from rag_backend.llm.notes import Route
from rag_backend.llm.prices import Price
from rag_backend.llm.provider import LLMProvider
from rag_backend.llm.routing import Named, Router, Side
from rag_backend.llm.rows import EXTRACTIVE, SMART, ProviderRow, check, price_of, rows_from
from rag_backend.llm.share import Share
from rag_backend.metrics import Metrics
from rag_backend.settings import Settings
from rag_backend.upstream import shown_url

_SWITCHES = {"openai": "OPENAI_API_KEY", "local": "LOCAL_LLM_API_URL"}
"""The variable that configures a provider which the house knows by name."""


@dataclass(frozen=True, slots=True)
class _Entry:
    row: ProviderRow
    provider: LLMProvider
    hosts: tuple[Host, ...]

    @property
    def model(self) -> str | None:
        """The model's name upstream, as far as it is known yet."""
        found = (host.client.model for host in self.hosts)
        return self.row.model or next(filter(None, found), None)


class Registry:
    """The providers by name. Owns their connections: close it with `aclose`."""

    def __init__(
        self,
        settings: Settings,
        chosen: str,
        fallback: Sequence[str],
        metrics: Metrics,
        router: Router | None = None,
    ) -> None:
        """`chosen` answers unless a request says otherwise; `fallback` when it fails, in order.

        With a `router`, `chosen` is no row's name but the name under which it chooses one.
        """
        self._settings = settings
        self._metrics = metrics
        self._router = router
        self._chosen = chosen
        self._fallback = tuple(fallback)
        self._entries: dict[str, _Entry] = {}

    @property
    def chosen(self) -> str:
        """Name of the provider that answers unless a request names another."""
        return self._chosen

    def create(self, row: ProviderRow) -> LLMProvider:
        """Register a row; no connection is made yet.

        Raises:
            Conflict: the name is taken.
            StartError: the row can never work, such as OpenAI without a key.
        """
        check(row)
        if self.has(row.name):
            raise Conflict(f"LLM {row.name!r} exists already: remove it first, or take a new name.")
        if row.kind == "extractive":
            provider: LLMProvider = Extractive(row.name, stands_in=self._chosen != row.name)
            self._entries[row.name] = _Entry(row, provider, ())
            return provider
        hosts = tuple(host_of(row, url, self._settings) for url in row.base_urls)
        provider = stack([host.endpoint for host in hosts], self._settings, self._metrics)
        self._entries[row.name] = _Entry(row, provider, hosts)
        return provider

    def get(self, name: str) -> LLMProvider | None:
        """The provider of this name, its policies around it; None where there is none."""
        entry = self._entries.get(name)
        return entry.provider if entry else None

    def get_required(self, name: str) -> LLMProvider:
        """The same; raises NotFound, naming those that are available."""
        return self._entry(name).provider

    def row(self, name: str) -> ProviderRow:
        """A provider's row; raises NotFound."""
        return self._entry(name).row

    def has(self, name: str) -> bool:
        """Whether there is a provider of this name."""
        return name in self._entries

    def names(self) -> list[str]:
        """All names, in order of registration."""
        return list(self._entries)

    def models(self) -> list[str]:
        """Every name that a request may give: the providers', and the router's."""
        return [*([self._chosen] if self._router else []), *self._entries]

    def choices(self, name: str) -> list[str]:
        """Who may answer what is asked of this name, stand-ins aside: itself, or the router's."""
        if self._router is None or name != self._chosen:
            return [name]
        return [self._router.local.name, self._router.strong.name]

    @property
    def baseline(self) -> str:
        """Who would answer everything if nothing were saved: the strong provider."""
        if self._router is not None:
            return self._router.strong.name
        return "openai" if self.has("openai") else self._chosen

    def price(self, name: str, model: str | None = None) -> Price | None:
        """What a provider's answers cost; `model`: the one that answered, as it called itself."""
        entry = self._entries.get(name)
        return price_of(entry.row, model, entry.model) if entry else None

    async def remove(self, name: str) -> None:
        """Take a provider away and close its connections; raises NotFound."""
        entry = self._entry(name)
        del self._entries[name]
        await _close(entry.hosts)

    def resolve(self, model: str | None) -> tuple[LLMProvider, str | None]:
        """Who answers a request for `model`, with its fallbacks, and what to ask it for upstream.

        A registered name picks that provider. Any other goes to the chosen one, which is asked for
        its own model (None), because clients send "gpt-4o" whatever runs behind.

        Raises:
            NotFound: the name is unknown and UNKNOWN_MODEL=refuse.
        """
        name = self.named(model)
        if self._router is None:
            return self._with_fallbacks(name), None
        if name == self._chosen:
            return self._routing(self._router), None
        return Named(self._with_fallbacks(name), self._router.routed), None

    def named(self, model: str | None) -> str:
        """Name of who answers a request for `model`; raises NotFound as `resolve` does."""
        if model in self._entries:
            return model
        if self._settings.unknown_model == "refuse" and model not in (None, self._chosen):
            theirs = [self._entry(choice).model for choice in self.choices(self._chosen)]
            if model not in theirs:
                raise NotFound(
                    f"The model {model!r} does not exist. Available: {', '.join(self.models())}",
                    param="model",
                    code="model_not_found",
                )
        return self._chosen

    def hosts(self, name: str) -> tuple[Host, ...]:
        """A provider's hosts, none for one that needs no server; raises NotFound."""
        return self._entry(name).hosts

    def info(self) -> list[dict[str, Any]]:
        """Each provider as it stands now, for people: no keys, no passwords in URLs.

        `state`: untried, ready, loading, degraded (one of its hosts is in trouble) or down (every
        breaker is open). `latency`: the first token's p50 and p95 over the last answers, in ms.
        """
        used = self._chain(self._chosen)
        rows = [
            _described(entry) | {"chosen": name == self._chosen, "fallback": name in used[1:]}
            for name, entry in list(self._entries.items())
        ]
        if self._router is None:
            return rows
        return [_described_router(self._chosen, self._router, rows), *rows]

    def identity(self, name: str) -> tuple[str, str | None]:
        """What an answer of this provider depends on: its row, and its model where that is known.

        Nothing of a provider that there is not.
        """
        entry = self._entries.get(name)
        if entry is None:
            return "", None
        row = entry.row
        return f"{row.kind} {row.base_urls} {row.context_tokens}", entry.model

    async def aclose(self) -> None:
        """Close every connection."""
        await _close([host for entry in self._entries.values() for host in entry.hosts])

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f"LLM {name!r} not found. Available: {', '.join(self.names())}")
        return entry

    def _with_fallbacks(self, name: str) -> LLMProvider:
        return chain([self.get_required(n) for n in self._chain(name)], self._metrics)

    def _routing(self, router: Router) -> LLMProvider:
        local, strong = (self.get_required(side.name) for side in (router.local, router.strong))
        stand_ins = [self.get_required(n) for n in self._chain(router.local.name)[1:]]
        strong_chain = self._with_fallbacks(strong.name)
        return routing(self._chosen, router, local, strong, stand_ins, strong_chain, self._metrics)

    def _chain(self, name: str) -> list[str]:
        """The provider of this name and those that answer when it fails, in order."""
        if name == EXTRACTIVE:
            return [name]  # it needs nothing that could fail, and who asks for it wants no model
        # One that was removed at run time is left out.
        return [name, *(n for n in self._fallback if n != name and self.has(n))]


def build_registry(settings: Settings, metrics: Metrics | None = None) -> Registry:
    """All providers that the settings configure; `metrics` counts what is routed, retried and left.

    Raises:
        StartError: LLM_PROVIDER, LLM_FALLBACK or LLM_PROVIDERS cannot be honoured; one line.
    """
    rows = {row.name: row for row in rows_from(settings)}
    chosen = _chosen(settings, rows)
    metrics = metrics or Metrics()
    router = _router(settings, rows, metrics) if chosen == SMART else None
    registry = Registry(settings, chosen, _fallback(settings, rows), metrics, router)
    for row in rows.values():
        registry.create(row)
    return registry


def _chosen(settings: Settings, rows: dict[str, ProviderRow]) -> str:
    if settings.llm_provider == "auto":
        return next(name for name in ("openai", "local", EXTRACTIVE) if name in rows)
    if settings.llm_provider == SMART:
        return SMART
    return _configured("LLM_PROVIDER", settings.llm_provider, rows)


def _fallback(settings: Settings, rows: dict[str, ProviderRow]) -> list[str]:
    """Nothing here leaves the LAN unless it was listed."""
    if settings.llm_fallback is None:
        return [name for name in ("local", EXTRACTIVE) if name in rows]
    listed = [name for name in settings.llm_fallback if name != "none"]
    return [_configured("LLM_FALLBACK", name, rows) for name in listed]


def _configured(variable: str, name: str, rows: dict[str, ProviderRow]) -> str:
    if name in rows:
        return name
    if name in _SWITCHES:
        raise StartError(f"{variable}={name} needs {_SWITCHES[name]}, which is not set")
    others = {"LLM_PROVIDER": ("auto", SMART), "LLM_FALLBACK": ("none",)}.get(variable, ())
    switched = (f"{name} (with {switch})" for name, switch in _SWITCHES.items() if name not in rows)
    allowed = (*others, *rows, *switched)
    raise StartError(
        f"{variable}={name} is not allowed: it should be one of {', '.join(allowed)}, or a name "
        "from the LLM_PROVIDERS file"
    )


def _router(settings: Settings, rows: dict[str, ProviderRow], metrics: Metrics) -> Router:
    """Documents leave the LAN for hard questions: LLM_PROVIDER=smart is the word for it."""
    if "local" not in rows:
        raise StartError("LLM_PROVIDER=smart needs LOCAL_LLM_API_URL, which is not set")
    strong = _configured("SMART_STRONG", settings.smart_strong, rows)
    if strong in ("local", EXTRACTIVE):
        raise StartError(
            f"SMART_STRONG={strong} is not allowed: it should be another provider than the local "
            "one, openai or a name from the LLM_PROVIDERS file"
        )

    def counted(route: Route) -> None:
        metrics.routed.labels(route.provider, route.rule).inc()
        for reason in route.reasons:
            metrics.route_reasons.labels(route.provider, reason).inc()
        if route.score is not None and route.threshold is not None and route.rule == "score":
            metrics.route_scores.observe(route.score)
            metrics.route_threshold.set(route.threshold)

    return Router(
        Side("local", rows["local"].context_tokens),
        Side(strong, rows[strong].context_tokens),
        frozenset(settings.local_llm_features),
        Share(settings.smart_share),
        counted,
    )


def _described(entry: _Entry) -> dict[str, Any]:
    row, hosts = entry.row, entry.hosts
    gauges = [host.endpoint.gauge for host in hosts]
    return {
        "name": row.name,
        "kind": row.kind,
        "base_urls": [shown_url(url) for url in row.base_urls],
        "model": entry.model,
        "cloud": row.cloud,
        "context_tokens": row.context_tokens,
        "price": _shown(price_of(row, entry.model)),
        "state": condition(hosts) if hosts else "ready",
        "in_flight": sum(gauge.in_flight for gauge in gauges),
        "latency": latency(gauges),
        "hosts": [host.info() for host in hosts],
    }


def _described_router(name: str, router: Router, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The name under which the choice is left to the router, in the shape of a provider."""
    sides = {side.name: side for side in (router.local, router.strong)}
    known = [side.context_tokens for side in sides.values()]
    chosen = [row for row in rows if row["name"] in sides]
    share = router.share
    return {
        "name": name,
        "kind": "routing",
        "base_urls": [],
        "model": None,
        "cloud": any(row["cloud"] for row in chosen),
        "context_tokens": None if None in known else max(filter(None, known)),
        "price": None,
        "state": _worst(chosen),
        "in_flight": sum(row["in_flight"] for row in chosen),
        "latency": latency([]),
        "hosts": [],
        "chosen": True,
        "fallback": False,
        "routing": {
            "local": router.local.name,
            "strong": router.strong.name,
            "target_share": share.target,
            "recent_share": share.recent,
            "recent_requests": share.seen,
            "threshold": round(share.threshold, 4),
        },
    }


def _worst(rows: list[dict[str, Any]]) -> str:
    """Of two providers: down only if both are, ready only if both are."""
    states = {row["state"] for row in rows}
    return states.pop() if len(states) == 1 else "degraded"


def _shown(price: Price | None) -> dict[str, Any] | None:
    """US dollars per million tokens; None: not known, so nothing is counted."""
    if price is None:
        return None
    listed = {"in": price.input, "cached_in": price.cached_in, "out": price.output}
    return listed | {"source": price.source}


async def _close(hosts: Sequence[Host]) -> None:
    await asyncio.gather(*(host.aclose() for host in hosts))
