"""Server-sent events as OpenAI's SDKs read them: `data:` lines and `:` comments, nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
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
    """Events pulled by one task at a time, so that waiting can pause without losing any."""

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

    async def wait(self, seconds: float) -> Mapping[str, Any] | None:
        """The next event, or None when none came in time; raises StopAsyncIteration at the end."""
        task = self._pull()
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            return None
        self._next = None
        return task.result()

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
        super().__init__(
            _lines(feed, silence), media_type="text/event-stream", headers=dict(HEADERS)
        )
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await or_disconnected(receive, self.stream_response(send))
        except asyncio.CancelledError:
            end = _line(stopping().envelope()) + _DONE
            await send({"type": "http.response.body", "body": end, "more_body": False})
            raise
        finally:
            await self._feed.close()


async def _lines(feed: _Feed, silence: float) -> AsyncIterator[bytes]:
    if feed.silent:  # for as long as the first event was awaited
        yield _KEEP_ALIVE
    try:
        while True:
            event = await feed.wait(silence)
            yield _KEEP_ALIVE if event is None else _line(event)
    except StopAsyncIteration:
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
