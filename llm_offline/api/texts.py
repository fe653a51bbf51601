"""Endpoints that produce text: chat completions, completions, generate."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from llm_offline.api.body import read_body
from llm_offline.api.openapi import takes
from llm_offline.api.parameters import (
    ChatBody,
    CompletionBody,
    GenerateBody,
    TokenizeBody,
    plain_messages,
)
from llm_offline.api.replying import Head, Whole, ready, reply, serving_of, stream
from llm_offline.engine.interface import FinishReason

router = APIRouter()

COMPLETION_TOKENS = 16  # OpenAI's default for completions
GENERATE_TOKENS = 256


@router.post("/v1/chat/completions", openapi_extra=takes(ChatBody))
async def chat_completions(request: Request) -> Response:
    """A conversation's next message, plain or streamed."""
    body = await read_body(request, ChatBody)
    limit, messages = body.limit, plain_messages(body.messages)
    model, engine = ready(request).model, ready(request).engine
    prompt = await asyncio.to_thread(model.text.encode_chat, messages)
    generation = engine.generate(body.request(prompt, model.defaults, max_tokens=limit))
    name = serving_of(request).model_name
    if not body.stream:
        head = Head.new("chatcmpl", "chat.completion", name)
        return await reply(request, generation, lambda whole: _chat(head, whole))
    return stream(
        generation,
        Head.new("chatcmpl", "chat.completion.chunk", name),
        lambda text, finish: _delta({"content": text} if text else {}, finish),
        opening=_delta({"role": "assistant", "content": ""}, None),
        include_usage=body.include_usage,
    )


@router.post("/v1/completions", openapi_extra=takes(CompletionBody))
async def completions(request: Request) -> Response:
    """A text's continuation, plain or streamed; no chat template."""
    body = await read_body(request, CompletionBody)
    text = body.text
    model, engine = ready(request).model, ready(request).engine
    prompt = await asyncio.to_thread(model.text.encode, text)
    limit = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    generation = engine.generate(body.request(prompt, model.defaults, max_tokens=limit))
    head = Head.new("cmpl", "text_completion", serving_of(request).model_name)
    if not body.stream:
        return await reply(
            request,
            generation,
            lambda whole: head.chunk([_text(whole.text, whole.finish_reason)], usage=whole.usage),
        )
    return stream(generation, head, _text, opening=None, include_usage=body.include_usage)


@router.post("/v1/generate", openapi_extra=takes(GenerateBody))
async def generate(request: Request) -> Response:
    """`{prompt, ...}` → `{text, usage, finish_reason, model}`: the new text only."""
    body = (await read_body(request, GenerateBody)).sampled()
    model, engine = ready(request).model, ready(request).engine
    prompt = await asyncio.to_thread(model.text.encode, body.prompt)
    limit = GENERATE_TOKENS if body.max_tokens is None else body.max_tokens
    generation = engine.generate(body.request(prompt, model.defaults, max_tokens=limit))
    name = serving_of(request).model_name

    def shape(whole: Whole) -> dict[str, Any]:
        return {
            "text": whole.text,
            "usage": whole.usage,
            "finish_reason": whole.finish_reason,
            "model": name,
        }

    return await reply(request, generation, shape)


@router.post("/tokenize", openapi_extra=takes(TokenizeBody))
async def tokenize(request: Request) -> JSONResponse:
    """`{text}` or `{messages}` → `{tokens, count}`; messages with the template around them."""
    body = await read_body(request, TokenizeBody)
    text = ready(request).model.text
    if body.messages is not None:
        tokens = await asyncio.to_thread(text.encode_chat, plain_messages(body.messages))
    else:
        tokens = await asyncio.to_thread(text.encode, body.text or "", add_special_tokens=False)
    return JSONResponse({"tokens": tokens, "count": len(tokens)})


def _chat(head: Head, whole: Whole) -> dict[str, Any]:
    message = {"role": "assistant", "content": whole.text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": whole.finish_reason,
    }
    return head.chunk([choice], usage=whole.usage)


def _delta(delta: dict[str, str], finish: FinishReason | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _text(text: str, finish: FinishReason | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
