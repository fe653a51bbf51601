"""Derived data that are lost while the backend runs are made anew, as they are at a start.

A hand deletes Chroma's directory, a disk damages an index, somebody drops a collection of a Chroma
server: `VectorIndex` and `LexicalIndex` name what they met (`suspects`, `damaged`) and go on
without it. Here it is opened anew, counted against the catalog, and put back in place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from rag_backend.errors import RAGError, StorageLost
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.finishing import Threads
from rag_backend.knowledge.jobs import Jobs
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import Store
from rag_backend.knowledge.recovery import Lost, Recovery
from rag_backend.knowledge.refills import Refills
from rag_backend.knowledge.vectors import VectorIndex

LOOK_SECONDS = 1.0
"""Between looks, which cost microseconds while nothing is amiss."""

log = logging.getLogger(__name__)


class Healing:
    """Looks for losses, and begins their repair. For the event loop."""

    def __init__(
        self,
        catalog: Catalog,
        vectors: VectorIndex,
        lexical: LexicalIndex,
        recovery: Recovery,
        refills: Refills,
        jobs: Jobs,
        threads: Threads,
        begin: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """`begin` starts a task that lives as long as the indexer."""
        self._catalog = catalog
        self._vectors = vectors
        self._lexical = lexical
        self._recovery = recovery
        self._refills = refills
        self._jobs = jobs
        self._threads = threads
        self._begin = begin
        self._problem: str | None = None
        self._left: dict[str, bool] = {}

    @property
    def problem(self) -> str | None:
        """What is lost and not yet being made anew, in a sentence."""
        if self._problem is None and self._vectors.damaged:
            return "The vectors are damaged: they are opened anew now."
        return self._problem

    def is_sound(self, store: Store) -> bool:
        """Whether nothing odd was met about what the store serves."""
        return not (
            self._vectors.damaged
            or self._left.get(store.collection, False)
            or store.collection in self._vectors.suspects
            or store.collection in self._lexical.suspects
        )

    async def run(self, changed: Callable[[], None]) -> None:
        """Look until cancelled; `changed` is called when jobs have to begin again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if await self._look():
                    changed()
                self._problem = None
            except RAGError as error:
                if self._problem != str(error):
                    log.error("what was lost cannot be made anew yet: %s", error)
                self._problem = str(error)
            except Exception:
                log.exception("looking for losses failed; it goes on")

    async def _look(self) -> bool:
        """Whether something was lost."""
        for collection, certain in self._vectors.suspects.take().items():
            self._left[collection] = certain or self._left.get(collection, False)
        broken = self._lexical.suspects.take()
        self._left.update(broken)
        reopens = self._vectors.damaged
        if not self._left and not reopens:
            return False
        async with self._refills.writing:
            if reopens:
                log.warning("Chroma's files were deleted or damaged: they are opened anew")
                await self._threads.run(self._reopen)
            for collection in broken:
                await self._threads.run(self._lexical.discard, collection)
            losses = await self._threads.run(self._losses)
            for store, _ in losses:
                self._refills.interrupt(store.id, StorageLost("What was written of it is lost."))
        # Of what was on its way into them nobody knows what is left: it comes again.
        self._jobs.outdate_stores({store.id for store, _ in losses})
        for store, lost in losses:
            self._begin(self._refills.repair(store, lost))
        self._left.clear()
        return bool(losses)

    def _reopen(self) -> None:
        """Open Chroma anew; what any store holds is to be counted then.

        Chroma keeps what it has once taken: where its files are the same, a store whose numbers
        agree has lost nothing, and goes on with what it is at.
        """
        stores = self._catalog.list_stores()
        renewed = self._vectors.reopen()
        for store in stores:
            for name in store.collections:
                self._left[name] = renewed or self._left.get(name, False)

    def _losses(self) -> list[tuple[Store, Lost]]:
        """Stores that have lost something, or may have lost what was not complete yet."""
        found = []
        for store in self._catalog.list_stores():
            named = self._left.keys() & {*store.collections}
            certain = any(self._left[name] for name in named)
            if store.rebuilding:
                # What serves may lack vectors of an encoder that is gone; the rebuild brings them.
                if certain or (named and self._is_short(store)):
                    found.append((store, Lost(postings=False, vectors=False)))
            elif named:
                lost = self._recovery.lost(store, growing=True)
                if certain or lost.postings or lost.vectors:
                    found.append((store, lost))
        return found

    def _is_short(self, store: Store) -> bool:
        """Whether vectors are gone that a rebuild under way has written."""
        rebuild = self._refills.mirror_of(store)
        if rebuild is None:
            return False
        try:
            return self._vectors.count(rebuild.collection) < rebuild.made
        except RAGError as error:
            log.error("%s", error)
            return True
