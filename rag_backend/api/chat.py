"""`POST /v1/chat/completions`."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from rag_backend.answering.pipeline import Question
from rag_backend.api.disconnect import or_disconnected
from rag_backend.api.parts import Backend, Parts
from rag_backend.api.schemas import ChatBody
from rag_backend.api.sse import event_stream
from rag_backend.knowledge.library import DEFAULT_STORE
from rag_backend.llm.complete import fold
from rag_backend.llm.provider import Chunk

router = APIRouter()
log = logging.getLogger("rag_backend.content")


@router.post("/v1/chat/completions")
async def create_chat_completion(body: ChatBody, request: Request, backend: Backend) -> Response:
    """Answer from the documents, with sources; plain or streamed."""
    asked = await _question(body, request, backend)
    if backend.settings.log_content:
        log.info("question: %s", asked.messages[-1]["content"])
    chunks = backend.pipeline.answer(asked)
    if body.stream:
        wanted = body.stream_options is not None and body.stream_options.include_usage
        return await event_stream(_streamed(chunks, usage=wanted))
    completion = await or_disconnected(request, fold(chunks))
    if backend.settings.log_content:
        log.info("answer: %s", completion["choices"][0]["message"]["content"])
    return JSONResponse(completion)


async def _question(body: ChatBody, request: Request, backend: Parts) -> Question:
    name, store_name = split_model(body.model)
    provider, upstream_model = backend.registry.resolve(name)
    return Question(
        messages=tuple(message.plain(at) for at, message in enumerate(body.messages)),
        options=body.options(),
        provider=provider,
        model=upstream_model,
        store=await backend.library.store(store_name),
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
