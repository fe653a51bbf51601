"""Routes that need a model: their requests wait while one is being loaded, and keep theirs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from llm_offline.api.body import keep_body
from llm_offline.api.boundary import require_key
from llm_offline.api.replying import gone, serving_of
from llm_offline.api.sse import SILENCE, EventStream, event
from llm_offline.errors import ClientGone

Answer = Callable[[Request], Coroutine[Any, Any, Response]]

_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})")


class Waiting(APIRoute):
    """A route of `APIRouter(route_class=Waiting)`.

    Plain requests wait silently; a stream gets keep-alive comments once it has waited for long.
    Past the setting `loading_wait`, or what `Prefer: wait=SECONDS` (RFC 7240) says if that is
    less, the answer is the 503 that `Serving.ready` raises.
    """

    def get_route_handler(self) -> Answer:
        """FastAPI's handler, with the wait before it."""
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if serving_of(request).here is None:
                return await _later(request, answer)
            return await _held(request, answer)

        return handle


async def _held(request: Request, answer: Answer) -> Response:
    """The answer of the model that serves now, which is not ended before it has the request."""
    now = serving_of(request).ready()
    request.state.ready = now
    with now.held():
        try:
            return await answer(request)
        finally:
            # What is still sent to a slow client must not keep a model in memory.
            del request.state.ready


async def _later(request: Request, answer: Answer) -> Response:
    # Before anything is loaded for somebody.
    await require_key(request)
    streamed = (await keep_body(request)).get("stream") is True
    serving = serving_of(request)
    longest = min(serving.settings.loading_wait, preferred_wait(request.headers.get("prefer", "")))
    waiting = asyncio.ensure_future(serving.wait(longest))
    leaving = asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait(
            {waiting, leaving},
            timeout=SILENCE if streamed else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
    except asyncio.CancelledError:
        waiting.cancel()
        raise
    finally:
        leaving.cancel()
    if waiting.done():
        waiting.result()
        return await _held(request, answer)
    if leaving.done():
        waiting.cancel()
        raise ClientGone

    async def stop() -> None:
        waiting.cancel()

    return EventStream(_afterwards(request, waiting, answer), stop)


def preferred_wait(header: str) -> float:
    """Seconds that a `Prefer` header wants to wait; infinity where it does not say."""
    found = _WAIT.search(header.lower())
    return float(found[1]) if found else float("inf")


async def _afterwards(
    request: Request, waiting: asyncio.Future[None], answer: Answer
) -> AsyncIterator[bytes]:
    """The events of the answer, in a response that has begun already."""
    await waiting
    response = await _held(request, answer)
    if not isinstance(response, EventStream):
        yield event(json.loads(bytes(response.body)))
        return
    try:
        async for payload in response.events:
            yield payload
    finally:
        await response.free()
