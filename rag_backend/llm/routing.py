"""Simple questions to the local model, hard ones to the strong one.

The order of decisions: what the request names; what only one of the two can do (hold the prompt,
honour the parameters), and what is not worth a strong model; the score against the threshold.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from rag_backend.errors import UpstreamRefused
from rag_backend.llm.extractive import features as wanted_features
from rag_backend.llm.notes import Route
from rag_backend.llm.provider import ChatRequest, Chunk, LLMProvider
from rag_backend.llm.scoring import prompt_tokens, score
from rag_backend.llm.share import Share
from rag_backend.llm.streams import begin

_ANSWER = 512
"""Tokens kept free for an answer whose length the request does not limit."""

Routed = Callable[[Route], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two providers; `context_tokens` None: not known, so anything may fit."""

    name: str
    context_tokens: int | None


class Router:
    """Decides where a request goes. Knows providers by name only, and asks none."""

    def __init__(
        self, local: Side, strong: Side, features: frozenset[str], share: Share, routed: Routed
    ) -> None:
        """`features`: what the local model can (`tools`, `response_format`, `logprobs`).

        `routed` is told every decision.
        """
        self.local = local
        self.strong = strong
        self.share = share
        self.routed = routed
        self._features = features

    def decide(self, request: ChatRequest) -> Route:
        """The route of a request; a decision by score changes the threshold of later ones."""
        route = self._by_rule(request) or self._by_score(request)
        self.routed(route)
        return route

    def _by_rule(self, request: ChatRequest) -> Route | None:
        local, strong = self.local, self.strong
        needed = prompt_tokens(request) + _answer_tokens(request.options)
        fits_local, fits_strong = (_fits(side, needed) for side in (local, strong))
        if not fits_local:
            # Where it fits neither, the one that reads more refuses it properly, or reads it yet.
            more = strong if fits_strong or _reads_more(strong, local) else local
            return self._ruled(more, "context", "prompt exceeds the local context")
        missing = [f for f in wanted_features(request.options) if f not in self._features]
        if missing:
            return self._ruled(strong, "features", *(f"needs {name}" for name in missing))
        if not fits_strong:
            return self._ruled(local, "context", "prompt exceeds the strong context")
        if request.minor:
            # Nobody asked a question: it counts for no share.
            return Route(local.name, "task", ("task of the client",))
        return None

    def _ruled(self, side: Side, rule: Any, *reasons: str) -> Route:
        self.share.forced(strong=side is self.strong)
        return Route(side.name, rule, reasons)

    def _by_score(self, request: ChatRequest) -> Route:
        scored = score(request, self.local.context_tokens)
        judged = self.share.judge(scored.score)
        reasons = (*scored.reasons, *(("tied",) if judged.tied else ()))
        side = self.strong if judged.strong else self.local
        return Route(side.name, "score", reasons, scored.score, judged.threshold)


class Routing:
    """Sends each request to one of two providers, each with those that stand in for it."""

    def __init__(self, name: str, router: Router, providers: Mapping[str, LLMProvider]) -> None:
        """`providers`: by the names that the router knows."""
        self._name = name
        self._router = router
        self._providers = providers

    @property
    def name(self) -> str:
        """The name under which the choice is left to it."""
        return self._name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider; the decision is noted before anybody is asked."""
        route = self._router.decide(request)
        _note(request, route)
        async with aclosing(self._providers[route.provider].stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk


class Named:
    """A provider that the request named: nothing is decided, and that is noted."""

    def __init__(self, provider: LLMProvider, routed: Routed) -> None:
        self._provider = provider
        self._routed = routed

    @property
    def name(self) -> str:
        """The wrapped provider's name."""
        return self._provider.name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider."""
        route = Route(self.name, "named", ("named in the request",))
        self._routed(route)
        _note(request, route)
        async with aclosing(self._provider.stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk


class Overflowing:
    """The local model, and the strong one for a prompt that the local one refuses as too long.

    Only for that: for every other failure the fallbacks answer, as LLM_FALLBACK has them.
    """

    def __init__(self, local: LLMProvider, strong: LLMProvider, routed: Routed) -> None:
        self._local = local
        self._strong = strong
        self._routed = routed

    @property
    def name(self) -> str:
        """The local provider's name."""
        return self._local.name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider."""
        try:
            begun = await begin(self._local, request)
        except UpstreamRefused as error:
            if error.code != "context_length_exceeded":
                raise
            log.info("%s", error)
            self._overflow(request)
            begun = await begin(self._strong, replace(request, model=None))
        async with aclosing(begun.rest) as rest:
            for chunk in begun.held:
                yield chunk
            async for chunk in rest:
                yield chunk

    def _overflow(self, request: ChatRequest) -> None:
        before = request.note.route if request.note else None
        route = before or Route(self._local.name, "score", ())
        reasons = (*route.reasons, "refused as too long")
        route = replace(route, provider=self._strong.name, rule="overflow", reasons=reasons)
        self._routed(route)
        _note(request, route)


def _note(request: ChatRequest, route: Route) -> None:
    if request.note is not None:
        request.note.route = route


def _fits(side: Side, tokens: int) -> bool:
    return side.context_tokens is None or tokens <= side.context_tokens


def _reads_more(one: Side, other: Side) -> bool:
    return (one.context_tokens or 0) >= (other.context_tokens or 0)


def _answer_tokens(options: Mapping[str, Any]) -> int:
    limit = options.get("max_completion_tokens") or options.get("max_tokens")
    return limit if isinstance(limit, int) else _ANSWER
