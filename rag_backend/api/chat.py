"""`POST /v1/chat/completions`."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from rag_backend.answering.caching import Served, Wanted
from rag_backend.answering.pipeline import Question
from rag_backend.api.asking import asker, freshness
from rag_backend.api.disconnect import or_disconnected
from rag_backend.api.document import ASKED, EVERYWHERE
from rag_backend.api.limiting import check_messages
from rag_backend.api.parts import Backend, Parts
from rag_backend.api.repeating import Known, recorded_response, remember
from rag_backend.api.rights import Asking, reached
from rag_backend.api.schemas import ChatBody
from rag_backend.api.shapes import ChatCompletion
from rag_backend.api.sse import event_stream
from rag_backend.api.strict import StrictRoute
from rag_backend.errors import NotFound
from rag_backend.keys import Caller
from rag_backend.knowledge.library import DEFAULT_STORE
from rag_backend.llm.complete import fold
from rag_backend.llm.provider import Chunk
from rag_backend.notes import notes

router = APIRouter(route_class=StrictRoute)
log = logging.getLogger("rag_backend.content")


@router.post(
    "/v1/chat/completions",
    responses={
        200: {
            "model": ChatCompletion,
            "description": "A cited answer; as events, one chunk each, with `stream`",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **EVERYWHERE,
        **ASKED,
    },
)
async def create_chat_completion(
    body: ChatBody, request: Request, backend: Backend, caller: Asking
) -> Response:
    """Answer from the documents, with sources; plain or streamed."""
    asked = await _question(body, request, backend, caller)
    wanted = Wanted.of(asked, asker(request.headers, keyed=bool(backend.settings.api_keys)))
    fresh, served = freshness(request.headers), Served()
    recording = shown = None
    if fresh == "any":
        recording = await backend.answers.recorded(wanted, asked.provider.name, asked.store)
    usage = body.stream_options is not None and body.stream_options.include_usage
    if recording is not None and not backend.settings.log_content:
        stream, route = bool(body.stream), request.scope["route"]
        remember(request, Known(wanted, *split_model(body.model), stream, usage, route))
        return recorded_response(recording, stream=stream, usage=usage)
    if recording is not None:
        served.outcome, shown = "hit", recording.route
        chunks = recording.replay()
    else:
        live = bool(body.stream)
        chunks = backend.answers.answer(asked, wanted, fresh, served, live=live)
    if backend.settings.log_content:
        log.info("question: %s", asked.messages[-1]["content"])
        chunks = _logged(chunks)
    response: Response
    if body.stream:
        response = await event_stream(request, _streamed(chunks, usage=usage))
    else:
        whole = await or_disconnected(request.receive, fold(chunks))
        response = Response(orjson.dumps(whole), media_type="application/json")
    if served.note.route is not None:
        shown = served.note.route.header()
    if shown is not None:
        response.headers["x-route"] = notes().route = shown
    if backend.answers.caching:
        response.headers["x-cache"] = served.outcome
    return response


async def _question(body: ChatBody, request: Request, backend: Parts, caller: Caller) -> Question:
    name, store_name = split_model(body.model)
    provider, upstream_model = backend.registry.resolve(name)
    try:
        store = reached(await backend.library.store(store_name), store_name, caller)
    except NotFound as error:
        raise NotFound(
            f"The model '{body.model}' does not exist: there is no vector store '{store_name}'.",
            param="model",
            code="model_not_found",
        ) from error
    messages = tuple(message.plain(at) for at, message in enumerate(body.messages))
    limits = backend.settings
    check_messages(messages, limits.max_messages, limits.max_message_chars)
    return Question(
        messages=messages,
        options=body.options(),
        provider=provider,
        model=upstream_model,
        store=store,
        base_url=str(request.base_url).rstrip("/"),
    )


def split_model(model: str | None) -> tuple[str | None, str]:
    """`name@store` → (name, store); either part may be missing."""
    name, _, store = (model or "").partition("@")
    return name or None, store or DEFAULT_STORE


async def _streamed(
    chunks: AsyncGenerator[Chunk, None], *, usage: bool
) -> AsyncGenerator[Chunk, None]:
    """The pipeline's chunks; the one with the token counts only where it was asked for."""
    async with aclosing(chunks):
        async for chunk in chunks:
            if usage or chunk["choices"]:
                yield chunk


async def _logged(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
    """The same chunks; the answer goes into the log when it is whole."""
    said: list[str] = []
    async with aclosing(chunks):
        async for chunk in chunks:
            said += [choice["delta"].get("content", "") for choice in chunk["choices"]]
            yield chunk
    log.info("answer: %s", "".join(said))
