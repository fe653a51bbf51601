"""Server-sent events as OpenAI's SDKs read them: `data:` lines and `:` comments, nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rag_backend.api.disconnect import or_disconnected
from rag_backend.api.failures import stopping, unexpected
from rag_backend.errors import RAGError
from rag_backend.notes import DEFECT, notes

SILENCE = 15.0
"""Seconds without an event after which a comment keeps the connection alive."""

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_KEEP_ALIVE = b": still working\n\n"
_DONE = b"data: [DONE]\n\n"

log = logging.getLogger(__name__)


async def event_stream(
    request: Request, events: AsyncGenerator[Mapping[str, Any], None], silence: float = SILENCE
) -> StreamingResponse:
    """A response that streams events as they come; the events are closed in any case.

    The first event is awaited for up to `silence` seconds before the headers are sent: what fails
    by then is raised here, and so gets its own HTTP status. Later failures become an error event.

    Raises:
        ClientDisconnect: The client hung up before the first event.
    """
    feed = _Feed(events)
    try:
        await or_disconnected(request.receive, feed.first(silence))
    except BaseException:
        await feed.close()
        raise
    return _EventStream(feed, silence)


class _Feed:
    """Events, the first of which may be waited for, given up and waited for again."""

    def __init__(self, events: AsyncGenerator[Mapping[str, Any], None]) -> None:
        self._events = events
        self._next: asyncio.Task[Mapping[str, Any]] | None = None

    async def first(self, seconds: float) -> None:
        """Wait so long for the first event, and keep it; raises what the source raises."""
        task = self._pull()
        await asyncio.wait((task,), timeout=seconds)
        error = task.exception() if task.done() else None
        if error is not None and not isinstance(error, StopAsyncIteration):
            raise error

    async def all(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """Every event; raises what the source raises."""
        try:
            event = await self._pull()
        except StopAsyncIteration:
            return
        self._next = None
        yield event
        async for event in self._events:
            yield event

    async def close(self) -> None:
        """Stop the source now: the client is gone, or everything was sent."""
        task, self._next = self._next, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._events.aclose()

    @property
    def silent(self) -> bool:
        """Whether an event is being waited for."""
        return self._next is not None and not self._next.done()

    def _pull(self) -> asyncio.Task[Mapping[str, Any]]:
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._events))
        return self._next


class _EventStream(StreamingResponse):
    """Starlette's would cancel the events' own cleaning up, too, when the client leaves."""

    def __init__(self, feed: _Feed, silence: float) -> None:
        self._feed = feed
        self._silence = silence
        self._lines = _lines(feed)
        super().__init__(self._lines, media_type="text/event-stream", headers=dict(HEADERS))
        self._waiting_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await or_disconnected(receive, self.stream_response(send))
        except asyncio.CancelledError:
            end = _line(stopping().envelope()) + _DONE
            await send({"type": "http.response.body", "body": end, "more_body": False})
            raise
        finally:
            await self._lines.aclose()
            await self._feed.close()

    async def stream_response(self, send: Send) -> None:
        """The head, the lines as they come, and comments meanwhile."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        if self._feed.silent:  # for as long as the first event was awaited
            await _send_part(send, _KEEP_ALIVE)
        clock = asyncio.get_running_loop()
        # Beside the events: a wait with a limit would need a task for each of them.
        keeping_alive = asyncio.create_task(self._keep_alive(send))
        try:
            self._waiting_since = clock.time()
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
                await _send_part(send, _KEEP_ALIVE)


async def _send_part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _lines(feed: _Feed) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(feed.all()) as events:
            async for event in events:
                yield _line(event)
        yield _DONE
    except RAGError as error:
        log.warning("a stream ended with an error: %s", error)
        notes().error = type(error).__name__
        yield _line(error.envelope())
        yield _DONE
    except Exception:
        log.exception("a stream failed")
        notes().error = DEFECT
        yield _line(unexpected().envelope())
        yield _DONE


def _line(event: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"
