"""Which model serves: list, load, unload, try."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import Field, ValidationError
from starlette.responses import JSONResponse, Response

from llm_offline.api.aside import preparing_of
from llm_offline.api.body import Body, read_body
from llm_offline.api.openapi import takes
from llm_offline.api.replying import serving_of
from llm_offline.api.sse import EventStream, event
from llm_offline.errors import BadRequest, LoadFailed, NotFound, ShuttingDown, StartError
from llm_offline.running import Ready, name_of
from llm_offline.serving import Change, Serving
from llm_offline.settings import Settings, changed, flag
from llm_offline.validating import SENTENCE, failed, validate

router = APIRouter()

T = TypeVar("T")

_LOOK = 0.2
"""Seconds between two looks at how far a load is."""

_FIELD = re.compile(r"(?<![\w/-])--(model|revision|quantization|max-context)(?![\w-])")
"""Flags that a request can send as fields."""

_STEP = 5.0
"""Per cent of progress that are worth an event of their own."""


class ModelBody(Body):
    """Names a model, and how it is to be loaded; what is not said is as in the server's settings.

    Without a model it is the one that serves, or served last, as it was loaded, but for what is
    said.
    """

    model: str | None = Field(None, min_length=1, description="Hugging Face id, or a folder")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub")
    quantization: str | None = Field(None, description="As --quantization")
    max_context: Annotated[int, Field(ge=16, le=10_000_000)] | None = Field(
        None, description="As --max-context"
    )

    def wish(self, serving: Serving) -> Settings:
        """The settings that it comes to.

        Raises:
            BadRequest: One of them is not allowed.
        """
        given = self.model_dump(include={"revision", "quantization", "max_context"})
        try:
            return changed(
                serving.base(self.model),
                {name: value for name, value in given.items() if value is not None},
            )
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
            name = str(problem["loc"][0])
            allowed = Settings.model_fields[name].description
            raise BadRequest(
                f"{name}={problem['input']!r} is not allowed: it should be {allowed}", param=name
            ) from error

    def refusal(self, error: StartError) -> LoadFailed:
        """Why it cannot be loaded, with fields of the request for the flags of the same name."""
        told = _FIELD.sub(lambda at: at[1].replace("-", "_"), str(error))
        param = error.param or "model"
        if param != "model" and getattr(self, param, None) is None:
            told += f" (it is the server's {flag(param)}: send another {param})"
        return LoadFailed(told, param=param)


class LoadBody(ModelBody):
    """`POST /v1/models/load`; without a model, the one that was there before."""

    stream: bool = Field(True, description="Progress as events; false: one answer at the end")


class UnloadBody(Body):
    """`POST /v1/models/unload`."""

    model: str | None = Field(None, description="Refused if another one serves")


class ValidateBody(ModelBody):
    """`POST /validate-model`; without a model, the one that serves."""

    prompt: str = Field(SENTENCE, min_length=1, max_length=4000)
    max_tokens: Annotated[int, Field(ge=2, le=256)] = 32


@router.get("/v1/models")
async def models(request: Request) -> JSONResponse:
    """The one model."""
    return JSONResponse({"object": "list", "data": [_model(request)]})


@router.post("/v1/models/load", openapi_extra=takes(LoadBody))
async def load(request: Request) -> Response:
    """Load a model, in place of the one that serves; progress as events, or one answer."""
    body = await read_body(request, LoadBody)
    serving = serving_of(request)
    wish = body.wish(serving)
    now = serving.here
    if now is not None and now.settings == wish and serving.coming is None:
        task = None
    else:
        task = serving.load(wish)
        task.add_done_callback(_seen)
    if body.stream:
        return EventStream(_events(serving, body, wish, task), _nothing)
    if task is not None:
        await _outcome(body, task)
    return JSONResponse(_loaded(serving, task))


@router.post("/v1/models/unload", openapi_extra=takes(UnloadBody))
async def unload(request: Request) -> JSONResponse:
    """Let the model finish what it has begun, and give its memory back."""
    body = await read_body(request, UnloadBody)
    serving = serving_of(request)
    if body.model not in (None, serving.model_name):
        raise NotFound(
            f"the model {body.model!r} is not here; {serving.model_name!r} is",
            param="model",
            code="model_not_found",
        )
    name = await serving.unload()
    return JSONResponse({"status": "unloaded", "model": name})


@router.post("/validate-model", openapi_extra=takes(ValidateBody))
async def validate_model(request: Request) -> JSONResponse:
    """Load a model beside the one that serves (or take that), generate, and report."""
    body = await read_body(request, ValidateBody)
    serving = serving_of(request)
    now = serving.here
    wish = body.wish(serving)
    aside = preparing_of(request).run
    if now is not None and now.settings == wish:
        with now.held():
            return JSONResponse(await validate(now, body.prompt, body.max_tokens, aside=aside))
    task = serving.try_out(
        wish,
        lambda tried, need: validate(tried, body.prompt, body.max_tokens, need, aside=aside),
    )
    task.add_done_callback(_seen)
    try:
        return JSONResponse(await _end_of(task))
    except StartError as error:
        return JSONResponse(failed(name_of(wish), str(body.refusal(error))))


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> JSONResponse:
    """The one model, by its name."""
    found = _model(request)
    if name != found["id"]:
        raise NotFound(
            f"the model {name!r} is not here; {found['id']!r} is", code="model_not_found"
        )
    return JSONResponse(found)


def _model(request: Request) -> dict[str, Any]:
    serving = serving_of(request)
    # One that is unloaded while nobody asks is there for those who do.
    context = serving.context if serving.state == "idle" else serving.ready().model.context
    return {
        "id": serving.model_name,
        "object": "model",
        "created": serving.started_at,
        "owned_by": "llm_offline",
        "max_model_len": context,
    }


async def _events(
    serving: Serving, body: LoadBody, wish: Settings, task: asyncio.Task[Change] | None
) -> AsyncIterator[bytes]:
    told: tuple[str, int] | None = None
    while task is not None and not task.done():
        stage = serving.progress.stage
        now = stage.name, int((stage.percent or 0) // _STEP)
        if now != told:
            told = now
            progress = {"status": "loading", "model": name_of(wish), "progress": stage.as_json()}
            yield event(progress)
        await asyncio.wait({task}, timeout=_LOOK)
    if task is not None:
        await _outcome(body, task)
    yield event(_loaded(serving, task))


async def _outcome(body: LoadBody, task: asyncio.Task[Change]) -> Change:
    """What the load did; it goes on if the client goes away."""
    try:
        return await _end_of(task)
    except StartError as error:
        raise body.refusal(error) from error


async def _end_of(task: asyncio.Task[T]) -> T:
    """What it returns or raises, `ShuttingDown` where the server's end has ended it."""
    await asyncio.wait({task})
    if task.cancelled():
        raise ShuttingDown("the server is shutting down")
    return task.result()


def _loaded(serving: Serving, task: asyncio.Task[Change] | None) -> dict[str, Any]:
    """The last answer; `task` has ended well, or is None where there was nothing to do."""
    now: Ready = serving.ready()
    did: dict[str, Any] = {"replaced": None, "load_seconds": 0.0, "served_meanwhile": True}
    if task is not None:
        change = task.result()
        did = {
            "replaced": change.replaced,
            "load_seconds": round(change.seconds, 2),
            "served_meanwhile": change.beside,
        }
    return {"status": "ready", "model": now.name} | now.model.facts() | did


def _seen(task: asyncio.Task[Any]) -> None:
    # The log has a failure already; asyncio need not report it if the client has gone away.
    if not task.cancelled():
        task.exception()


async def _nothing() -> None: ...
