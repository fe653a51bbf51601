"""Answers given once and asked for again: an exact cache around the whole pipeline.

It stands here and not around a provider because a repeated question must cost no retrieval and no
condensing, and because the citations belong to the answer.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import orjson

from rag_backend.answering.flights import Flight
from rag_backend.answering.pipeline import HOUSE, Pipeline, Question
from rag_backend.answering.prompting import prompt_version
from rag_backend.answering.recording import Recording, load, record
from rag_backend.errors import UpstreamError, UpstreamRefused
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store
from rag_backend.knowledge.reranking import Reranking
from rag_backend.llm.cache.backing import Backing
from rag_backend.llm.notes import Note
from rag_backend.llm.pricing import Money
from rag_backend.llm.provider import Chunk
from rag_backend.llm.registry import Registry
from rag_backend.llm.rows import EXTRACTIVE
from rag_backend.metrics import Metrics
from rag_backend.notes import notes
from rag_backend.settings import Settings

Freshness = Literal["any", "fresh", "private"]
"""`fresh`: not from the cache, but into it. `private`: neither, and shared with nobody."""
Outcome = Literal["hit", "miss", "shared", "bypass"]

_NO_EFFECT = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
"""Parameters that label a request and change nothing in its answer."""
_ELSEWHERE = frozenset(
    "host port data_dir database_url chroma_url api_keys log_level log_content log_format "
    "health_interval max_file_mb "
    "read_timeout read_memory_mb cache_url cache_ttl cache_max_mb cache_max_entries "
    "openai_api_key local_llm_api_key embedding_api_key openai_price_in openai_price_out "
    "openai_price_cached_in allow_without_keys cors_origins "
    "max_concurrent_requests max_queued_requests max_body_mb max_messages max_message_chars".split()
)
"""Settings that change no answer. Every other one is part of the key, those of tomorrow too."""

_Models = list[tuple[str, str | None]]
"""See `Answers._models`."""


@dataclass(slots=True)
class Served:
    """How a question was served; known when its first chunk comes.

    Attributes:
        note: What was decided for it, or for the identical question whose answer it shares.
    """

    outcome: Outcome = "miss"
    note: Note = field(default_factory=Note)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A question as far as the request alone decides its answer.

    Attributes:
        digest: Of messages, options, the links' address and who asks.
    """

    digest: str

    @classmethod
    def of(cls, asked: Question, asker: str) -> Wanted:
        """`asker`: the API key that was checked; "" where there are none."""
        options = {k: v for k, v in asked.options.items() if k not in _NO_EFFECT}
        return cls(_digest([asker, asked.base_url, asked.messages, options]))


class _Departed(NamedTuple):
    """An answer on its way, the models it was asked of, and what was decided for it."""

    flight: Flight
    models: _Models
    note: Note


class Answers:
    """A pipeline and its cache; without a backing, the pipeline alone."""

    def __init__(
        self,
        pipeline: Pipeline,
        library: Library,
        backing: Backing | None,
        registry: Registry,
        reranking: Reranking,
        settings: Settings,
        metrics: Metrics,
        money: Money | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._money = money
        self._library = library
        self._backing = backing
        self._registry = registry
        self._reranking = reranking
        self._metrics = metrics
        self._house = _house(settings)
        self._flights: dict[str, _Departed] = {}
        self._clearings = 0

    @property
    def caching(self) -> bool:
        """Whether answers are kept at all."""
        return self._backing is not None

    async def recorded(self, wanted: Wanted, provider: str, store: Store) -> Recording | None:
        """The answer that was given before to the same question, by the same provider, from the
        same documents. Costs no model and no retrieval."""
        if self._backing is None:
            return None
        value = await self._backing.get(self._key(wanted, provider, store))
        recording = load(value) if value is not None else None
        if recording is not None:
            self._library.use(store)  # a store that is asked does not expire
            self._metrics.cached.labels("hit").inc()
            self._save(recording.provider, recording.usage, recording.spared)
            notes().cache, notes().store = "hit", store.id
        return recording

    async def answer(
        self,
        asked: Question,
        wanted: Wanted,
        freshness: Freshness,
        served: Served,
        *,
        live: bool = True,
    ) -> AsyncGenerator[Chunk, None]:
        """See Pipeline.answer; identical questions asked meanwhile share the answer.

        What is to come from the cache was asked of `recorded` before.

        Args:
            served: Is told how, before the first chunk.
            live: Chunks as they come; else none before the answer is whole.
        """
        if self._backing is None or freshness == "private":
            served.outcome, served.note = "bypass", asked.note
            chunks = self._pipeline.answer(asked)
        else:
            served.outcome = "bypass" if freshness == "fresh" else "miss"
            chunks = self._together(asked, wanted, freshness, served, live=live)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
        if self._backing is not None:
            self._metrics.cached.labels(served.outcome).inc()
            notes().cache = served.outcome

    async def clear(self) -> int:
        """Forget every answer, those that are on their way included; how many were kept.

        Raises:
            CacheUnavailable: see Backing.clear.
        """
        self._clearings += 1
        self._flights.clear()
        return 0 if self._backing is None else await self._backing.clear()

    async def check(self) -> None:
        """Raise CacheUnavailable where no answer can be kept now."""
        if self._backing is not None:
            await self._backing.check()

    async def aclose(self) -> None:
        """Give up what is on its way, and let go of the backing."""
        for departed in list(self._flights.values()):
            departed.flight.give_up()
        if self._backing is not None:
            await self._backing.aclose()

    async def _together(
        self, asked: Question, wanted: Wanted, freshness: Freshness, served: Served, *, live: bool
    ) -> AsyncGenerator[Chunk, None]:
        """One's own flight, or one that is under way; after another's failure, one more try."""
        key = self._key(wanted, asked.provider.name, asked.store, models=[])
        for may_try_again in (True, False):
            departed = self._under_way(key, asked.provider.name) if freshness == "any" else None
            shared, begun = departed is not None, False
            if departed is None:
                departed = self._depart(key, asked, wanted)
            flight, served.note = departed.flight, departed.note
            if shared:
                served.outcome = "hit" if flight.whole else "shared"
            try:
                async with aclosing(flight.read(live=live)) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
            except UpstreamError as error:
                # A refusal is about the request, which is the same one.
                final = begun or not shared or isinstance(error, UpstreamRefused)
                if final or not may_try_again:
                    raise
                served.outcome = "miss"
                continue
            if shared:
                self._save(chunk["provider"], chunk.get("usage") or {}, served.note.spared)
            return

    def _under_way(self, key: str, provider: str) -> _Departed | None:
        """The flight that answers this too, unless another model would answer by now."""
        departed = self._flights.get(key)
        fit = departed is not None and _same(departed.models, self._models(provider))
        return departed if fit else None

    def _depart(self, key: str, asked: Question, wanted: Wanted) -> _Departed:
        """Begin a flight; `key` leaves the models out, since they may become known on the way."""
        clearings, models = self._clearings, self._models(asked.provider.name)
        complete = self._library.is_complete(asked.store)
        late = self._library.searches_by_words

        async def landed(chunks: list[Chunk]) -> None:
            same = _same(models, self._models(asked.provider.name))
            # Nor one, possibly this one, that was found without the encoder.
            fit = complete and same and late == self._library.searches_by_words
            recording = await self._fit(chunks, asked) if fit else None
            if recording is None or clearings != self._clearings or self._backing is None:
                self._metrics.cache_events.labels("unfit").inc()
                ended()  # nobody who asks from now on gets it
                return
            kept = self._key(wanted, asked.provider.name, asked.store)
            await self._backing.put(kept, recording.dump())

        def ended() -> None:
            if self._flights.get(key) is departed:
                del self._flights[key]

        flight = Flight(self._pipeline.answer(asked), landed, ended)
        self._flights[key] = departed = _Departed(flight, models, asked.note)
        return departed

    async def _fit(self, chunks: list[Chunk], asked: Question) -> Recording | None:
        """What is to be kept of an answer: nothing where somebody stood in for who was asked.

        Where the choice was the router's, who was asked is whom it chose this time.
        """
        recording, route = await record(chunks), asked.note.route
        chosen = route.provider if route else asked.provider.name
        if recording is None or recording.provider not in (chosen, HOUSE):
            return None
        header = route.header() if route else None
        return replace(recording, route=header, spared=asked.note.spared)

    def _key(
        self, wanted: Wanted, provider: str, store: Store, models: _Models | None = None
    ) -> str:
        documents = [store.id, store.revision, store.generation]
        models = self._models(provider) if models is None else models
        return _digest([self._house, wanted.digest, provider, models, documents])

    def _models(self, provider: str) -> _Models:
        """Of who answers, of who rewrites and condenses, and of who orders the passages.

        A name that chooses among providers stands for all of them: whoever it chose then, it is
        the answer to the question. A reranker may still be loading: answers without it are not
        those that it would bring.
        """
        names = [*self._registry.choices(provider), "local"]
        models = [self._registry.identity(name) for name in names]
        return [*models, ("reranker", "loaded" if self._reranking.ready else "")]

    def _save(self, provider: str, usage: Any, spared: int) -> None:
        told = notes()
        told.provider = provider
        told.tokens_in, told.tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
        counter = self._metrics.cache_saved_tokens
        counter.labels(provider, "in").inc(usage.get("prompt_tokens", 0))
        counter.labels(provider, "out").inc(usage.get("completion_tokens", 0))
        if self._money is not None and provider not in (HOUSE, EXTRACTIVE):
            self._money.spared(usage, spared)


def _same(before: _Models, now: _Models) -> bool:
    """A model may have been looked up meanwhile, but not have become another one."""
    return len(before) == len(now) and all(
        a == b or a == (b[0], None) for a, b in zip(before, now, strict=True)
    )


def _house(settings: Settings) -> str:
    """What all answers of this installation depend on: code, prompts, settings."""
    chosen = settings.model_dump(mode="json", exclude={*_ELSEWHERE})
    return _digest([version("rag-backend"), prompt_version(), chosen])


def _digest(parts: Any) -> str:
    """Of canonical JSON: sorted names, UTF-8, NFC (a text in another normal form is the same)."""
    text = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.decode()).encode()
    return hashlib.sha256(text).hexdigest()
