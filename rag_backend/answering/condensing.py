"""Passages into fewer tokens: with the local model, or by picking sentences. Never fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rag_backend.answering.citing import Source
from rag_backend.answering.prompting import render
from rag_backend.answering.statements import Statement, statements
from rag_backend.errors import RAGError, UpstreamBroken
from rag_backend.knowledge.retriever import coverage
from rag_backend.llm.complete import complete
from rag_backend.llm.provider import ChatRequest, LLMProvider
from rag_backend.llm.streams import estimate_tokens
from rag_backend.telling import severity

_CONCURRENT = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Condensed:
    """What is left, and what it cost. Tokens are estimates for a language model."""

    sources: tuple[Source, ...]
    tokens_before: int
    tokens_after: int
    method: Literal["none", "model", "extractive"]


class Condenser:
    """Shortens sources to a token budget; numbers stay as they are."""

    def __init__(
        self,
        policy: Literal["auto", "always", "never"],
        budget: int,
        local: LLMProvider | None,
        patience: float = 20.0,
    ) -> None:
        """`patience`: seconds for the local model to condense everything."""
        self._policy = policy
        self._budget = budget
        self._local = local
        self._patience = patience

    async def condense(
        self, sources: Sequence[Source], question: str, weights: Mapping[str, float]
    ) -> Condensed:
        """Keep what helps to answer the question, at most the budget in tokens.

        Args:
            weights: Inverse document frequency of the question's folded stems.
        """
        before = _tokens(sources)
        if self._policy == "never" or (self._policy == "auto" and before <= self._budget):
            return Condensed(tuple(sources), before, before, "none")
        shorter = await self._by_model(sources, question)
        if shorter and _tokens(shorter) <= min(before, self._budget):
            return Condensed(shorter, before, _tokens(shorter), "model")
        # Under "always", what would fit anyway is still to become less.
        budget = self._budget if before > self._budget else before // 2
        picked = pick_sentences(sources, weights, budget)
        return Condensed(picked, before, _tokens(picked), "extractive")

    async def _by_model(self, sources: Sequence[Source], question: str) -> tuple[Source, ...]:
        """Sources rewritten by the local model; () when it is absent, slow or failing."""
        if self._local is None:
            return ()
        slots = asyncio.Semaphore(_CONCURRENT)
        try:
            async with asyncio.timeout(self._patience), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(_shorten(self._local, source, question, slots))
                    for source in sources
                ]
        except (TimeoutError, ExceptionGroup) as error:
            if isinstance(error, ExceptionGroup) and error.split(RAGError)[1] is not None:
                raise  # a defect of ours, not a model's failure
            cause = _cause(error)
            said = "the local model could not condense (%s): picking sentences"
            log.log(severity(cause), said, str(cause) or "it took too long")
            return ()
        return tuple(shorter for task in tasks if (shorter := task.result()) is not None)


async def _shorten(
    provider: LLMProvider, source: Source, question: str, slots: asyncio.Semaphore
) -> Source | None:
    prompt = render("condense", question=question, text=source.passage.text)
    request = ChatRequest(
        messages=({"role": "user", "content": prompt},),
        options={"temperature": 0, "max_tokens": estimate_tokens(source.passage.text)},
    )
    async with slots:
        text = await read_text(provider, request)
    if not text or text.strip(" .").upper() == "NONE":
        return None
    return replace(source, passage=replace(source.passage, text=text))


async def read_text(provider: LLMProvider, request: ChatRequest) -> str:
    """The whole text that a provider answers.

    Raises:
        UpstreamError: what its `stream` raises; UpstreamBroken too when the text reached the
            token limit: a model that goes on and on has lost its task.
    """
    (choice,) = (await complete(provider, request))["choices"]
    if choice["finish_reason"] == "length":
        raise UpstreamBroken(f"Provider {provider.name!r} did not come to an end.")
    return (choice["message"]["content"] or "").strip()


def pick_sentences(
    sources: Sequence[Source], weights: Mapping[str, float], budget: int
) -> tuple[Source, ...]:
    """The statements that cover most of the question, in their order, until the budget is full.

    A statement counts by the idf of the question's words in it, and by its passage's score.
    """
    ranked = sorted(
        (
            (-coverage(weights, said.text) - 0.2 * source.passage.score, which, said.start, said)
            for which, source in enumerate(sources)
            for said in statements(source.passage.text)
        ),
        key=lambda one: one[:3],
    )
    kept: dict[int, list[Statement]] = {}
    left = budget
    for _, which, _, said in ranked:
        cost = estimate_tokens(_with_header(said, kept.get(which, ()))) + 1
        if cost <= left:
            left -= cost
            kept.setdefault(which, []).append(said)
    if ranked and not kept:  # not even one fits
        _, which, _, said = ranked[0]
        kept[which] = [replace(said, text=_cut(said.text, budget), header=None)]
    return tuple(
        replace(source, passage=replace(source.passage, text=_joined(kept[which])))
        for which, source in enumerate(sources)
        if which in kept
    )


def _with_header(said: Statement, others: Sequence[Statement]) -> str:
    """A row under the names of its columns, unless they are there already."""
    if said.header is None or any(other.header == said.header for other in others):
        return said.text
    return f"{said.header}\n{said.text}"


def _joined(kept: Sequence[Statement]) -> str:
    ordered = sorted(kept, key=lambda said: said.start)
    return "\n".join(_with_header(said, ordered[:at]) for at, said in enumerate(ordered))


def _cut(text: str, tokens: int) -> str:
    """As many whole words as there may be tokens, one at least."""
    kept, *words = text.split(" ")
    for word in words:
        if estimate_tokens(f"{kept} {word}") > tokens:
            break
        kept = f"{kept} {word}"
    return kept


def _tokens(sources: Sequence[Source]) -> int:
    return sum(estimate_tokens(source.passage.text) for source in sources)


def _cause(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
