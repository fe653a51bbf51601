"""Endpoints that produce text: chat completions, completions, generate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from llm_offline.api.answers import Detokenized, Generated, Tokenized
from llm_offline.api.aside import aside
from llm_offline.api.body import read_body, shown
from llm_offline.api.calls import WithCalls
from llm_offline.api.messages import plain_messages
from llm_offline.api.openapi import gives, takes
from llm_offline.api.parameters import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    GenerateBody,
    TokenizeBody,
)
from llm_offline.api.replying import Head, admit, ready, reply, stream
from llm_offline.api.shapes import ChatShape, CompletionShape
from llm_offline.api.waiting import Waiting
from llm_offline.engine.interface import TextDelta
from llm_offline.errors import BadRequest

router = APIRouter(route_class=Waiting)

COMPLETION_TOKENS = 16  # OpenAI's default for completions
GENERATE_TOKENS = 256


@router.post("/v1/chat/completions", openapi_extra=takes(ChatBody))
async def chat_completions(request: Request) -> Response:
    """A conversation's next message, plain or streamed."""
    body = await read_body(request, ChatBody)
    limit, messages, tools = body.limit, plain_messages(body.messages), body.offered
    model, engine = ready(request).model, ready(request).engine
    described = [tool.model_dump(exclude_none=True) for tool in tools]
    prompt = await aside(request, model.text.encode_chat, messages, described)
    wanted = [replace(body.request(prompt, model, max_tokens=limit), number=n) for n in body.texts]
    # Each text has a grammar of its own, which remembers how far the text has come.
    grammars = [await aside(request, body.grammar, model.grammars) for _ in wanted]
    wanted = [replace(one, grammar=found) for one, found in zip(wanted, grammars, strict=True)]
    check = await aside(request, body.call_check, model.grammars)
    generations = await admit(engine, wanted)
    if tools:
        names, several = {tool.function.name for tool in tools}, body.several_calls
        generations = [
            WithCalls(generation, names, several=several, check=check) for generation in generations
        ]
    name = ready(request).name
    chat = ChatShape(model.text)
    if body.stream:
        head = Head.new("chatcmpl", "chat.completion.chunk", name)
        return stream(
            generations,
            head,
            chat.delta,
            opening=chat.opening,
            include_usage=body.include_usage,
        )
    head = Head.new("chatcmpl", "chat.completion", name)
    return await reply(
        request,
        generations,
        lambda wholes, used: head.chunk(
            [chat.whole(number, whole) for number, whole in enumerate(wholes)], usage=used
        ),
    )


@router.post("/v1/completions", openapi_extra=takes(CompletionBody))
async def completions(request: Request) -> Response:
    """A text's continuation, plain or streamed; no chat template."""
    body = await read_body(request, CompletionBody)
    text = body.text
    model, engine = ready(request).model, ready(request).engine
    prompt = await aside(request, model.text.encode, text)
    limit = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    wanted = [replace(body.request(prompt, model, max_tokens=limit), number=n) for n in body.texts]
    generations = await admit(engine, wanted)
    head = Head.new("cmpl", "text_completion", ready(request).name)
    shape = CompletionShape(model.text, text, prompt)
    if body.stream:
        return stream(
            generations, head, shape.whole, opening=None, include_usage=body.include_usage
        )
    return await reply(
        request,
        generations,
        lambda wholes, used: head.chunk(
            [shape.whole(number, whole) for number, whole in enumerate(wholes)], usage=used
        ),
    )


@router.post("/generate", openapi_extra=takes(GenerateBody), responses=gives(Generated))
@router.post("/v1/generate", openapi_extra=takes(GenerateBody), responses=gives(Generated))
async def generate(request: Request) -> Response:
    """`{prompt, ...}` → `{text, usage, finish_reason, model}`: the new text only."""
    body = (await read_body(request, GenerateBody)).sampled()
    model, engine = ready(request).model, ready(request).engine
    prompt = await aside(request, model.text.encode, body.prompt)
    limit = GENERATE_TOKENS if body.max_tokens is None else body.max_tokens
    generations = await admit(engine, [body.request(prompt, model, max_tokens=limit)])
    name = ready(request).name

    def shape(wholes: list[TextDelta], used: dict[str, Any]) -> dict[str, Any]:
        return {
            "text": wholes[0].text,
            "usage": used,
            "finish_reason": wholes[0].finish_reason,
            "model": name,
        }

    return await reply(request, generations, shape)


@router.post("/tokenize", openapi_extra=takes(TokenizeBody), responses=gives(Tokenized))
async def tokenize(request: Request) -> JSONResponse:
    """`{text}` or `{messages}` → `{tokens, count}`; messages with the template around them."""
    body = await read_body(request, TokenizeBody)
    text = ready(request).model.text
    if body.messages is not None:
        tokens = await aside(request, text.encode_chat, plain_messages(body.messages))
    else:
        special = bool(body.add_special_tokens)
        tokens = await aside(request, text.encode, body.text or "", add_special_tokens=special)
    return JSONResponse({"tokens": tokens, "count": len(tokens)})


@router.post("/detokenize", openapi_extra=takes(DetokenizeBody), responses=gives(Detokenized))
async def detokenize(request: Request) -> JSONResponse:
    """`{tokens}` → `{text, count}`: the text that `/tokenize` was given."""
    body = await read_body(request, DetokenizeBody)
    text = ready(request).model.text
    unknown = await aside(request, text.first_unknown, body.tokens)
    if unknown is not None:
        raise BadRequest(
            f"tokens[{unknown}]={shown(body.tokens[unknown])} is not a token of this model",
            param=f"tokens[{unknown}]",
        )
    special = not body.skip_special_tokens
    written = await aside(request, text.decode, body.tokens, special=special)
    return JSONResponse({"text": written, "count": len(body.tokens)})
