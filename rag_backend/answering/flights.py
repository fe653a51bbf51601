"""One answer on its way to everybody who asked for it at the same time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable

from rag_backend.llm.provider import Chunk

log = logging.getLogger(__name__)

Landed = Callable[[list[Chunk]], Awaitable[None]]


class Flight:
    """Pulls an answer in a task of its own, so that no single reader's leaving ends it.

    It begins with the first reader and is given up when the last one leaves; the upstream is freed
    then. `landed` is awaited with a whole answer's chunks, while readers have them already.
    """

    def __init__(
        self, chunks: AsyncGenerator[Chunk, None], landed: Landed, ended: Callable[[], None]
    ) -> None:
        """`ended` is called once, when the flight can take nobody on any more."""
        self._source = chunks
        self._landed = landed
        self._ended = ended
        self._chunks: list[Chunk] = []
        self._whole = False
        self._readers = 0
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def whole(self) -> bool:
        """Whether the answer is complete."""
        return self._whole

    async def read(self, *, live: bool = True) -> AsyncGenerator[Chunk, None]:
        """All chunks from the first on; `live`: as they come, else when the answer is whole.

        Raises what the source raises.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._pull())
            self._task.add_done_callback(self._done)
        task, sent = self._task, 0
        self._readers += 1
        try:
            while True:
                while sent < len(self._chunks) and (live or self._whole):
                    sent += 1
                    yield self._chunks[sent - 1]
                if self._whole and sent == len(self._chunks):
                    return
                if task.done():
                    task.result()  # raises what ended it
                    return
                await self._changed.wait()
        finally:
            self._readers -= 1
            if not self._readers and not self._whole:
                self.give_up()

    def give_up(self) -> None:
        """Free the upstream; whoever still reads is cancelled."""
        self._ended()
        if self._task is not None:
            self._task.cancel()

    async def _pull(self) -> None:
        try:
            async for chunk in self._source:
                self._chunks.append(chunk)
                self._wake()
        except BaseException:
            self._ended()  # at once: readers may wake before the task's callbacks run
            raise
        finally:
            await self._source.aclose()
        self._whole = True
        self._wake()
        await self._landed(self._chunks)

    def _done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self._whole:
            log.error("an answer could not be kept", exc_info=error)  # else: the readers raise it
        self._ended()
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
