"""From a question to a cited answer: rewrite → retrieve → condense → prompt → generate → cite."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from rag_backend.answering.citing import Source, cite, cite_whole
from rag_backend.answering.condensing import Condenser
from rag_backend.answering.finding import find, typed_bare
from rag_backend.answering.language import is_client_task, is_small_talk
from rag_backend.answering.markers import MarkerFilter
from rag_backend.answering.prompting import grounded_messages
from rag_backend.answering.replies import NOTHING_FOUND, fixed_reply
from rag_backend.answering.rewriting import Rewritten, rewrite
from rag_backend.answering.searching import search_query
from rag_backend.answering.wire import ChunkWriter, without_empty
from rag_backend.errors import UpstreamBroken
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store, StoredChunk
from rag_backend.knowledge.passages import Passage
from rag_backend.llm.extractive import needs_model, wants_json
from rag_backend.llm.notes import Note
from rag_backend.llm.pricing import Money
from rag_backend.llm.provider import ChatRequest, Chunk, Evidence, Grounding, LLMProvider, Message
from rag_backend.llm.rows import EXTRACTIVE
from rag_backend.llm.streams import estimate_tokens
from rag_backend.metrics import Metrics
from rag_backend.notes import notes
from rag_backend.text import content_terms, language_of, present_terms, words
from rag_backend.utterances import without_courtesies

HOUSE = "documents"
"""Provider name of answers that come from the documents alone, without any provider."""


@dataclass(frozen=True, slots=True)
class Question:
    """A chat request as the API understood it.

    Attributes:
        provider, model: Who is asked, and the model name to send upstream (None: its own).
        base_url: Where clients reach this backend; begins the citations' links.
        note: Where it is written down what was decided on the way.
    """

    messages: tuple[Message, ...]
    options: Mapping[str, Any]
    provider: LLMProvider
    model: str | None
    store: Store
    base_url: str
    note: Note = field(default_factory=Note, compare=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """A decided answer: the stream that will give it and the sources that it may cite.

    Attributes:
        provider: Who was asked first; signs what no chunk signs.
        whole: The answer is its one source's own text.
        marked: Brackets in the answer are markers. In JSON they are lists.
    """

    stream: AsyncGenerator[Chunk, None]
    provider: str
    sources: tuple[Source, ...] = ()
    whole: bool = False
    marked: bool = True
    grounding: Literal["plain", "curated", "nothing", "passages"] = "plain"
    prompt: tuple[Message, ...] = ()


class Pipeline:
    """Answers questions from a library with whatever provider each question names."""

    def __init__(
        self,
        library: Library,
        condenser: Condenser,
        local: LLMProvider | None,
        no_answer: Literal["say", "model"],
        metrics: Metrics,
        money: Money | None = None,
    ) -> None:
        self._library = library
        self._money = money
        self._condenser = condenser
        self._local = local
        self._no_answer = no_answer
        self._metrics = metrics

    async def answer(self, asked: Question) -> AsyncGenerator[Chunk, None]:
        """Chunks of a cited answer; the last one carries the usage.

        Raises what the provider's `stream` raises, and NotFound, Conflict or Starting before it.
        """
        notes().store = asked.store.id
        plan = await self._plan(asked)
        async with aclosing(self._write(plan, asked)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def search_query(self, question: str) -> str:
        """What to search for when this is asked; see `searching.search_query`."""
        return await search_query(question, self._local)

    async def _plan(self, asked: Question) -> Plan:
        if not await self._asks_documents(asked):
            return self._plain(asked)
        asked_for = str(asked.messages[-1]["content"])
        curated = await self._curated(asked, asked_for)
        if curated is not None:
            return curated
        rewritten = await rewrite(asked.messages, self._local)
        rewritten = rewritten._replace(text=without_courtesies(rewritten.text))
        if rewritten.text != asked_for:
            curated = await self._curated(asked, rewritten.text)
            if curated is not None:
                return curated
        began = time.monotonic()
        question, passages = await self._passages(asked.store, rewritten)
        self._retrieved(time.monotonic() - began, len(passages))
        if not passages:
            return self._nothing_found(asked)
        row = None if needs_model(asked.options) else typed_bare(question, passages)
        if row is not None:
            return _from_curated(row)
        return await self._grounded(asked, question, passages)

    async def _asks_documents(self, asked: Question) -> bool:
        last = asked.messages[-1]
        if last["role"] != "user" or is_small_talk(last["content"]):
            return False
        if is_client_task(asked.messages):
            return False
        return not await self._library.is_empty(asked.store)

    async def _curated(self, asked: Question, question: str) -> Plan | None:
        """The stored answer to exactly this question, where a fixed text will do."""
        if needs_model(asked.options):
            return None
        row = await self._library.curated(asked.store, question)
        return None if row is None else _from_curated(row)

    async def _passages(self, store: Store, asked: Rewritten) -> tuple[str, list[Passage]]:
        """The question that was looked up, and what was found.

        A follow-up that names a subject of its own is looked up alone; joined to the question
        before it, only what mentions that subject counts.
        """
        if not asked.subject:
            return asked.text, await find(self._library, store, asked.text)
        alone = await find(self._library, store, asked.subject)
        if alone:
            return asked.subject, alone
        named = set(content_terms(asked.subject))
        joined = await find(self._library, store, asked.text)
        return asked.text, [p for p in joined if named & present_terms(p.text)]

    async def _grounded(self, asked: Question, question: str, passages: Sequence[Passage]) -> Plan:
        weights = await self._library.term_weights(asked.store, question)
        numbered = [Source(number, passage) for number, passage in enumerate(passages, 1)]
        shown = await self._condensed(asked, numbered, question, weights)
        kept = {source.number for source in shown}
        # As they stand in the documents, not as condensed: that is what gets quoted.
        sources = tuple(source for source in numbered if source.number in kept)
        language = _language(asked)
        grounding = Grounding(question, language, tuple(map(_evidence, sources)), weights)
        marked = not wants_json(asked.options)
        prompt = grounded_messages(
            asked.messages, [*map(_evidence, shown)], language, markers=marked
        )
        request = ChatRequest(prompt, asked.options, asked.model, grounding, note=asked.note)
        stream, name = asked.provider.stream(request), asked.provider.name
        return Plan(stream, name, sources, marked=marked, grounding="passages", prompt=prompt)

    async def _condensed(
        self,
        asked: Question,
        sources: Sequence[Source],
        question: str,
        weights: Mapping[str, float],
    ) -> Sequence[Source]:
        if asked.provider.name == EXTRACTIVE:
            return sources  # it reads no prompt, and has no budget to keep
        began = time.monotonic()
        condensed = await self._condenser.condense(sources, question, weights)
        notes().condense = seconds = time.monotonic() - began
        self._metrics.in_stage("condense", seconds)
        for when, count in (("before", condensed.tokens_before), ("after", condensed.tokens_after)):
            self._metrics.condensed_tokens.labels(condensed.method, when).inc(count)
        asked.note.spared = max(0, condensed.tokens_before - condensed.tokens_after)
        return condensed.sources

    def _plain(self, asked: Question, grounding: Literal["plain", "nothing"] = "plain") -> Plan:
        last = str(asked.messages[-1]["content"] or "")
        unfounded = Grounding(question=last, language=language_of(last))
        minor = is_client_task(asked.messages)
        request = ChatRequest(
            asked.messages, asked.options, asked.model, unfounded, minor=minor, note=asked.note
        )
        stream = asked.provider.stream(request)
        return Plan(stream, asked.provider.name, grounding=grounding, prompt=asked.messages)

    def _nothing_found(self, asked: Question) -> Plan:
        if self._no_answer == "model" or needs_model(asked.options):
            return self._plain(asked, "nothing")
        reply = NOTHING_FOUND[_language(asked)]
        return Plan(fixed_reply(reply, HOUSE), HOUSE, grounding="nothing")

    async def _write(self, plan: Plan, asked: Question) -> AsyncGenerator[Chunk, None]:
        """The provider's chunks in our one shape, markers checked, citations before the finish."""
        writer = ChunkWriter(plan.provider)
        markers = _marker_filter(plan)
        text, finish, usage, began = "", None, None, time.monotonic()
        begun = began
        async with aclosing(plan.stream) as chunks:
            async for chunk in chunks:
                writer.model = chunk.get("model") or writer.model
                writer.provider = chunk.get("provider") or writer.provider
                usage = chunk.get("usage") or usage
                for choice in (chunk.get("choices") or ())[:1]:
                    finish = choice.get("finish_reason") or finish
                    delta = without_empty(choice.get("delta") or {})
                    if not isinstance(delta.get("content", ""), str):
                        raise UpstreamBroken("The model server sent content that is not text.")
                    if markers and "content" in delta:
                        delta["content"] = markers.feed(delta["content"])
                        delta = without_empty(delta)
                    logprobs = choice.get("logprobs")
                    if not delta and not logprobs:
                        continue
                    if begun:
                        self._saw_first_token(writer.provider, begun)
                        begun = 0.0
                        yield writer.delta({"role": "assistant", "content": ""})
                    text += delta.get("content", "")
                    yield writer.delta(delta, logprobs=logprobs)
        if finish is None:
            raise UpstreamBroken("The model server ended its answer without saying why.")
        if begun:
            yield writer.delta({"role": "assistant", "content": ""})
        rest = markers.close() if markers else ""
        yield writer.citations(rest, _citations(plan, text + rest, asked.base_url))
        yield writer.delta({}, finish)
        counted = _usage(usage, plan.prompt, text + rest)
        self._metrics.answer_seconds.labels(writer.provider).observe(time.monotonic() - began)
        self._count(writer, plan.grounding, counted)
        self._price(writer, usage or {}, counted, plan.prompt, asked.note)
        yield writer.usage(counted)

    def _retrieved(self, seconds: float, passages: int) -> None:
        told = notes()
        told.retrieval, told.passages = seconds, passages
        self._metrics.in_stage("retrieve", seconds)

    def _saw_first_token(self, provider: str, begun: float) -> None:
        now, told = time.monotonic(), notes()
        told.provider, told.first_token = provider, now - told.began
        self._metrics.first_token_seconds.labels(provider).observe(now - begun)

    def _count(self, writer: ChunkWriter, grounding: str, usage: Mapping[str, int]) -> None:
        provider, told = writer.provider, notes()
        told.provider, told.model, told.grounding = provider, str(writer.model), grounding
        told.tokens_in, told.tokens_out = usage["prompt_tokens"], usage["completion_tokens"]
        self._metrics.answers.labels(provider, grounding).inc()
        self._metrics.tokens.labels(provider, "in").inc(usage["prompt_tokens"])
        self._metrics.tokens.labels(provider, "out").inc(usage["completion_tokens"])

    def _price(
        self,
        writer: ChunkWriter,
        reported: Mapping[str, Any],
        counted: Mapping[str, int],
        prompt: Sequence[Message],
        note: Note,
    ) -> None:
        """What a model's answer cost. What was condensed away was only estimated, so it is taken
        to be estimated as far off as the prompt that went out."""
        if self._money is None or writer.provider in (HOUSE, EXTRACTIVE):
            return
        estimated = _estimated_tokens(prompt)
        if note.spared and estimated:
            note.spared = round(note.spared * counted["prompt_tokens"] / estimated)
        self._money.answered(writer.provider, writer.model, {**reported, **counted}, note.spared)


def _from_curated(row: StoredChunk) -> Plan:
    passage = Passage(
        best=row,
        text=row.text,
        start=row.start,
        end=row.end,
        page=row.page,
        score=1.0,
        relevance=1.0,
    )
    stream = fixed_reply(row.answer or "", HOUSE)
    return Plan(stream, HOUSE, (Source(1, passage),), whole=True, grounding="curated")


def _marker_filter(plan: Plan) -> MarkerFilter | None:
    """None where the answer passes untouched: without sources, verbatim, or as JSON."""
    if not plan.sources or plan.whole or not plan.marked:
        return None
    return MarkerFilter(source.number for source in plan.sources)


def _evidence(source: Source) -> Evidence:
    passage = source.passage
    place = f", p. {passage.page}" if passage.page else ""
    headings = "".join(f" › {heading}" for heading in passage.best.heading_path)
    title = f"{passage.best.filename}{place}{headings}"
    question, answer = passage.best.question or "", passage.best.answer or ""
    return Evidence(source.number, title, passage.text, passage.score, question, answer)


def _citations(plan: Plan, text: str, base_url: str) -> list[dict[str, Any]]:
    if not plan.sources:
        return []
    if plan.whole:
        return [cite_whole(text, plan.sources[0], base_url)]
    return cite(text, plan.sources, base_url, marked=plan.marked)


def _language(asked: Question) -> str:
    """The last message's language; a short one without diacritics takes the conversation's."""
    said = [str(m["content"] or "") for m in asked.messages if m["role"] == "user"]
    if len(words(said[-1])) <= 3 and len(said) > 1 and said[-1].isascii():
        return language_of(said[-2])
    return language_of(said[-1])


def _estimated_tokens(prompt: Sequence[Message]) -> int:
    return sum(estimate_tokens(str(m.get("content") or "")) for m in prompt)


def _usage(
    reported: Mapping[str, Any] | None, prompt: Sequence[Message], text: str
) -> dict[str, int]:
    """The three counts every provider has: as reported, or estimated where nothing was."""
    if reported and isinstance(reported.get("completion_tokens"), int):
        sent = int(reported.get("prompt_tokens") or 0)
        got = int(reported["completion_tokens"])
    else:
        sent = _estimated_tokens(prompt)
        got = estimate_tokens(text)
    return {"prompt_tokens": sent, "completion_tokens": got, "total_tokens": sent + got}
