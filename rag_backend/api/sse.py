"""Server-sent events as OpenAI's SDKs read them: `data:` lines and `:` comments, nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.responses import StreamingResponse

from rag_backend.api.failures import unexpected
from rag_backend.errors import RAGError

SILENCE = 15.0
"""Seconds without an event after which a comment keeps the connection alive."""

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_DONE = b"data: [DONE]\n\n"

log = logging.getLogger(__name__)


async def event_stream(
    events: AsyncGenerator[Mapping[str, Any], None], patience: float = SILENCE
) -> StreamingResponse:
    """A response that streams events as they come.

    The first event is awaited for up to `patience` seconds before the headers are sent: what fails
    by then is raised here, and so gets its own HTTP status. Later failures become an error event.
    """
    feed = _Feed(events)
    await feed.first(patience)
    return StreamingResponse(_lines(feed), media_type="text/event-stream", headers=_HEADERS)


class _Feed:
    """Events pulled by one task at a time, so that waiting can pause without losing any."""

    def __init__(self, events: AsyncGenerator[Mapping[str, Any], None]) -> None:
        self._events = events
        self._next: asyncio.Task[Mapping[str, Any]] | None = None

    async def first(self, patience: float) -> None:
        """Wait for the first event; raises what the source raises."""
        task = self._pull()
        try:
            await asyncio.wait((task,), timeout=patience)
        except asyncio.CancelledError:
            await self.close()
            raise
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

    def _pull(self) -> asyncio.Task[Mapping[str, Any]]:
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._events))
        return self._next


async def _lines(feed: _Feed) -> AsyncIterator[bytes]:
    try:
        while True:
            event = await feed.wait(SILENCE)
            yield b": still working\n\n" if event is None else _line(event)
    except StopAsyncIteration:
        yield _DONE
    except RAGError as error:
        yield _line(error.envelope())
        yield _DONE
    except Exception:
        log.exception("a stream failed")
        yield _line(unexpected().envelope())
        yield _DONE
    finally:
        await feed.close()


def _line(event: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"
