"""Files and stores whose time has come: they go at the start, and soon after the moment."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from rag_backend.errors import NotFound, RAGError
from rag_backend.knowledge.catalog import Catalog

_EVERY = 60.0
"""Seconds between two looks, at most."""

log = logging.getLogger(__name__)


class Expirer:
    """Deletes what has expired, and keeps count of when stores were used."""

    def __init__(
        self,
        catalog: Catalog,
        sweep: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalog = catalog
        self._sweep = sweep
        self._clock = clock
        self._used: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look at once, before anything that has expired could be served, then again and again."""
        await self._look_or_log()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Look no more; what was used is written down."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._look_or_log()

    def used(self, store_id: str) -> None:
        """A store was searched. Costs nothing: it is written down at the next look."""
        self._used[store_id] = int(self._clock())

    async def look(self) -> None:
        """Write down what was used, and let go of what has expired."""
        used, self._used = self._used, {}
        if await asyncio.to_thread(self._look, used):
            self._sweep()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(await self._seconds())
            await self._look_or_log()

    async def _look_or_log(self) -> None:
        try:
            await self.look()
        except RAGError as error:
            log.error("what has expired could not be removed yet: %s", error)
        except Exception:
            log.exception("what has expired could not be removed yet")

    async def _seconds(self) -> float:
        """Until the next look: a file goes when its time comes, and not a minute later."""
        try:
            due = await asyncio.to_thread(self._catalog.next_file_expiry)
        except RAGError:
            due = None
        soon = _EVERY if due is None else due - self._clock()
        return min(_EVERY, max(1.0, soon))

    def _look(self, used: Mapping[str, int]) -> bool:
        """Whether anything has become garbage."""
        if used:
            self._catalog.note_use(used)
        now = int(self._clock())
        stores = self._catalog.expire_stores(now)  # first: a file that goes changes its store
        for store in stores:
            log.info(
                "vector store '%s' was not used for %s days and has expired",
                *(store.name, store.expires_after_days),
            )
        files = self._catalog.expired_files(now)
        for file_id in files:
            with suppress(NotFound):  # another backend, or a person, was first
                self._catalog.delete_file(file_id)
        if files:
            log.info("%d files have expired and were deleted", len(files))
        return bool(files or stores)
