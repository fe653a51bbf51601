"""Server-sent events as OpenAI's SDKs read them: `data:` lines and `:` comments only."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llm_offline.errors import LLMOfflineError

log = logging.getLogger(__name__)

SILENCE = 15.0
"""Seconds without an event after which a comment keeps proxies and clients waiting."""

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="?")
"""Of the response that is being made, for the log."""

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

# Valid inside JSON text, but line ends to clients that split with `splitlines`.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def unexpected() -> LLMOfflineError:
    """What a client sees of a defect of ours."""
    return LLMOfflineError(
        "internal error: the server's log has the details under this request's x-request-id"
    )


def event(payload: dict[str, Any]) -> bytes:
    """One `data:` line."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text.translate(_LINE_ENDS)}\n\n".encode()


async def ended(events: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """`events`, an error among them told as an event, and `[DONE]`.

    A stream that just breaks off reads as success in the SDKs; one with an error event does not.
    """
    try:
        async for payload in events:
            yield payload
    except LLMOfflineError as error:
        yield event(error.envelope())
    except Exception:
        log.exception("request %s failed in its stream", REQUEST_ID.get())
        yield event(unexpected().envelope())
    finally:
        await _close(events)
    yield DONE


async def _close(events: AsyncIterator[bytes]) -> None:
    """End a generator that nobody reads any more, and what it waits for, now."""
    if isinstance(events, AsyncGenerator):
        await events.aclose()


class EventStream(StreamingResponse):
    """A stream of events that frees what feeds it, however it ends."""

    def __init__(
        self,
        events: AsyncIterator[bytes],
        free: Callable[[], Awaitable[None]],
        silence: float | None = None,
    ) -> None:
        """`free` is awaited when the response ends, also if it never began."""
        self._lines = ended(events)
        super().__init__(
            self._lines,
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        self.events = events
        """What it is fed by, without keep-alive, errors and end."""
        self.free = free
        self._silence = SILENCE if silence is None else silence
        self._waiting_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client goes away."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._lines.aclose()
            await self.free()

    async def stream_response(self, send: Send) -> None:
        """The head, the events as they come, and comments meanwhile."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        clock = asyncio.get_running_loop()
        self._waiting_since = clock.time()
        # Beside the events: a wait with a limit would need a task for each of them.
        keeping_alive = asyncio.create_task(self._keep_alive(send))
        try:
            async for line in self._lines:
                self._waiting_since = None
                await _send_part(send, line)
                self._waiting_since = clock.time()
        finally:
            keeping_alive.cancel()
            await asyncio.gather(keeping_alive, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        """A comment whenever no event came for so long; none to a client that does not read."""
        clock = asyncio.get_running_loop()
        while True:
            since = self._waiting_since
            waited = 0.0 if since is None else clock.time() - since
            if waited < self._silence:
                await asyncio.sleep(self._silence - waited)
            else:
                self._waiting_since = clock.time()
                await _send_part(send, KEEP_ALIVE)


async def _send_part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
