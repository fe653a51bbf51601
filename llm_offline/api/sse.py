"""Server-sent events as OpenAI's SDKs read them: `data:` lines and `:` comments only."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llm_offline.errors import GenerationFailed, LLMOfflineError

log = logging.getLogger(__name__)

SILENCE = 15.0
"""Seconds without an event after which a comment keeps proxies and clients waiting."""

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

# Valid inside JSON text, but line ends to clients that split with `splitlines`.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}

T = TypeVar("T")


def event(payload: dict[str, Any]) -> bytes:
    """One `data:` line."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text.translate(_LINE_ENDS)}\n\n".encode()


async def with_keep_alive(
    events: AsyncIterator[bytes], seconds: float = SILENCE
) -> AsyncIterator[bytes]:
    """`events`, and a comment whenever nothing came for `seconds`."""
    following = asyncio.ensure_future(_next(events))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=seconds)
            if not done:
                yield KEEP_ALIVE
                continue
            payload = following.result()
            if payload is None:
                return
            yield payload
            following = asyncio.ensure_future(_next(events))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await _close(events)


async def _next(events: AsyncIterator[bytes]) -> bytes | None:
    return await anext(events, None)


async def _close(events: AsyncIterator[bytes]) -> None:
    """End a generator that nobody reads any more, and what it waits for, now."""
    if isinstance(events, AsyncGenerator):
        await events.aclose()


async def ended(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`events`, an error among them told as an event, and `[DONE]`.

    A stream that just breaks off reads as success in the SDKs; one with an error event does not.
    """
    try:
        async for payload in events:
            yield payload
    except LLMOfflineError as error:
        yield event(error.envelope())
    except Exception:
        log.exception("a stream failed")
        yield event(GenerationFailed("internal error; the server's log says why").envelope())
    finally:
        await _close(events)
    yield DONE


class EventStream(StreamingResponse):
    """A stream of events that frees what feeds it, however it ends."""

    def __init__(self, events: AsyncIterator[bytes], free: Callable[[], Awaitable[None]]) -> None:
        """`free` is awaited when the response ends, also if it never began."""
        self._sent = with_keep_alive(ended(events), SILENCE)
        super().__init__(
            self._sent,
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        self.events = events
        """What it is fed by, without keep-alive, errors and end."""
        self.free = free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client goes away."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await _close(self._sent)
            await self.free()
