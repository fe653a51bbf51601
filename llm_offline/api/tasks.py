"""Endpoints that do something with a text: summarize, compress, extract-parameters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from llm_offline.api.answers import Compressed, CompressedPassage, Extracted, Summary, Usage
from llm_offline.api.aside import aside, preparing_of
from llm_offline.api.body import read_body
from llm_offline.api.openapi import gives, takes
from llm_offline.api.parameters import StreamOptions, listed
from llm_offline.api.replying import Head, ready, unless_gone
from llm_offline.api.sse import EventStream, event
from llm_offline.api.task_bodies import CompressBody, ExtractBody, SummarizeBody, steady
from llm_offline.api.waiting import Waiting
from llm_offline.engine.interface import Sampling, TextDelta
from llm_offline.running import Ready
from llm_offline.tasks.compressing import Compressor, Kept
from llm_offline.tasks.extraction import Extractor
from llm_offline.tasks.running import Running
from llm_offline.tasks.summarizing import Summarizer, words_for
from llm_offline.tasks.writing import Writer

router = APIRouter(route_class=Waiting)

T = TypeVar("T")


def _streamed(now: Ready, running: Running[T], events: AsyncIterator[bytes]) -> EventStream:
    """A stream whose model is not ended between two of the texts that it takes."""
    holding = now.held()
    holding.__enter__()

    async def free() -> None:
        try:
            await running.aclose()
        finally:
            holding.__exit__(None, None, None)

    return EventStream(events, free)


def _writer(request: Request, now: Ready, sampling: Sampling) -> Writer:
    return Writer(
        now.model.text,
        now.engine,
        context=now.model.context,
        sampling=sampling,
        aside=preparing_of(request).run,
    )


@router.post(
    "/summarize",
    openapi_extra=takes(SummarizeBody),
    responses=gives(Summary, streamed=True),
)
async def summarize(request: Request) -> Response:
    """A text, or a conversation, in fewer words of its own language, plain or streamed.

    What the context does not hold is read in pieces, whose summaries are then summarised together.
    """
    body = await read_body(request, SummarizeBody)
    text, _ = body.source
    words = await aside(request, words_for, body.length or "medium", text)
    now, name = ready(request), ready(request).name
    writer = _writer(request, now, body.sampling(steady(now.model.defaults)))
    summarizer = Summarizer(
        writer,
        text,
        words=words,
        max_tokens=body.max_tokens,
        stop=listed(body.stop),
    )
    running = await _begun(request, writer, summarizer.deltas())
    if body.stream:
        events = _summary_events(running, summarizer, writer, name, body.stream_options)
        return _streamed(now, running, events)

    async def whole() -> Summary:
        deltas = [delta async for delta in running]
        return Summary(
            summary="".join(delta.text for delta in deltas),
            finish_reason="stop" if deltas[-1].finish_reason == "stop" else "length",
            pieces=summarizer.pieces,
            incomplete_parts=summarizer.incomplete,
            usage=Usage.of(writer.used),
            model=name,
        )

    return await _reply(request, running, whole())


async def _summary_events(
    running: Running[TextDelta],
    summarizer: Summarizer,
    writer: Writer,
    name: str,
    options: StreamOptions | None,
) -> AsyncIterator[bytes]:
    head = Head.new("sum", "summary.chunk", name)
    reason = None
    async for delta in running:
        if delta.text:
            yield event(head.chunk([_choice(delta.text)]))
        reason = delta.finish_reason
    facts = {"pieces": summarizer.pieces, "incomplete_parts": summarizer.incomplete}
    for payload in _ending(head, reason, facts, writer, options):
        yield payload


@router.post(
    "/compress",
    openapi_extra=takes(CompressBody),
    responses=gives(Compressed, streamed=True),
)
async def compress(request: Request) -> Response:
    """Of each passage the sentences that the question needs, word for word, plain or streamed."""
    body = (await read_body(request, CompressBody)).checked()
    now, name = ready(request), ready(request).name
    writer = _writer(request, now, body.sampling(Sampling(temperature=0.0)))
    compressor = Compressor(
        writer,
        now.model.grammars,
        body.given,
        body.question,
        target=body.target_tokens,
        ratio=body.ratio,
    )
    running = await _begun(request, writer, compressor.kept())
    if body.stream:
        events = _passage_events(running, compressor, writer, name, body.stream_options)
        return _streamed(now, running, events)

    async def whole() -> Compressed:
        kept = [one async for one in running if one is not None]
        return Compressed(
            text="\n\n".join(one.text for one in kept),
            passages=[_passage(one) for one in kept],
            tokens_before=compressor.tokens_before,
            tokens_after=sum(one.tokens for one in kept),
            target_tokens=compressor.target,
            usage=Usage.of(writer.used),
            finish_reason="stop",
            model=name,
        )

    return await _reply(request, running, whole())


async def _passage_events(
    running: Running[Kept | None],
    compressor: Compressor,
    writer: Writer,
    name: str,
    options: StreamOptions | None,
) -> AsyncIterator[bytes]:
    head = Head.new("cmpr", "compress.chunk", name)
    after, between = 0, ""
    async for kept in running:
        if kept is not None:
            after += kept.tokens
            said = _choice(between + kept.text, passage=_passage(kept).model_dump())
            yield event(head.chunk([said]))
            between = "\n\n"
    sizes = {
        "tokens_before": compressor.tokens_before,
        "tokens_after": after,
        "target_tokens": compressor.target,
    }
    for payload in _ending(head, "stop", sizes, writer, options):
        yield payload


def _passage(kept: Kept) -> CompressedPassage:
    return CompressedPassage(
        index=kept.index,
        source=kept.source,
        text=kept.text,
        spans=list(kept.spans),
        tokens=kept.tokens,
    )


@router.post(
    "/extract-parameters",
    openapi_extra=takes(ExtractBody),
    responses=gives(Extracted),
)
async def extract_parameters(request: Request) -> Response:
    """Values that a text gives, as JSON of a schema; what it does not give is null."""
    body = await read_body(request, ExtractBody)
    text, source = body.source
    schema, param = body.wanted
    now, name = ready(request), ready(request).name
    writer = _writer(request, now, body.sampling(Sampling(temperature=0.0)))
    grammar = await aside(request, now.model.grammars.json_schema, schema, param=param)
    extractor = Extractor(writer, grammar, text, schema, source=source)
    running = await _begun(request, writer, extractor.values(body.max_tokens))

    async def whole() -> Extracted:
        (found,) = [one async for one in running if one is not None]
        used = Usage.of(writer.used)
        return Extracted(parameters=found, usage=used, finish_reason="stop", model=name)

    return await _reply(request, running, whole())


async def _begun(request: Request, writer: Writer, work: AsyncGenerator[T, None]) -> Running[T]:
    """The work once the engine has taken it: what refuses it becomes the response's status."""
    running = Running(writer, work)
    try:
        await unless_gone(request, anext(running))
    except BaseException:
        await running.aclose()
        raise
    return running


async def _reply(
    request: Request, running: Running[T], whole: Coroutine[Any, Any, BaseModel]
) -> Response:
    """The whole as JSON; the work is given up when the client goes away (`ClientGone`)."""
    try:
        found = await unless_gone(request, whole)
    finally:
        await running.aclose()
    return JSONResponse(found.model_dump())


def _ending(
    head: Head,
    reason: str | None,
    facts: dict[str, Any],
    writer: Writer,
    options: StreamOptions | None,
) -> Iterator[bytes]:
    """The last chunk of a stream, with what is known by then, and the usage if it is wanted."""
    yield event(head.chunk([_choice("", finish_reason=reason)], **facts))
    if options is not None and options.include_usage:
        yield event(head.chunk([], usage=Usage.of(writer.used).model_dump()))


def _choice(text: str, **more: Any) -> dict[str, Any]:
    return {"index": 0, "text": text, "finish_reason": None, **more}
