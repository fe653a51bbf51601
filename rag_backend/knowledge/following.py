"""A backend among others on one catalog: it is alive, takes over from the dead, and follows.

Nothing here is needed for a result to be right: what a search returns is checked against the
catalog, and a job is completed by its owner alone. It is what makes results complete, and soon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from rag_backend.errors import RAGError
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.finishing import Threads
from rag_backend.knowledge.followed import FollowedIndex
from rag_backend.knowledge.models import Store, StoreFile
from rag_backend.knowledge.shared_blobs import SharedBlobs

BEAT_SECONDS = 1.0
"""Between signs of life, each followed by a look for work that the dead have left."""
FOLLOW_SECONDS = 0.25
"""Between looks at the stores' revisions."""
_COMPARE_SECONDS = 0.5
_COMPARED_SHARE, _LONGEST_REST = 0.05, 10.0
"""Comparing a whole store takes so much of the time at most, while it changes, and comes so many
seconds after the last time at the latest."""
_TIDY_SECONDS = 60.0
_THREADS = 3
"""One a loop: a sign of life waits for no request, and for no long look."""
_LONG_SECONDS = 5.0
"""Silence of the catalog after which it is said, and said again when it is over."""

log = logging.getLogger(__name__)


class Worker(Protocol):
    """Who does the work that is found (the indexer)."""

    async def start(self) -> None:
        """Resume what an earlier life left, and begin."""

    def submit(self, file: StoreFile) -> None:
        """Index a file."""

    def resume_rebuild(self, store_id: str) -> None:
        """Rebuild a store."""

    def sweep(self) -> None:
        """Remove garbage."""


class Following:
    """The loops of one backend among several; see the module."""

    def __init__(
        self,
        catalog: Catalog,
        lexical: FollowedIndex,
        blobs: SharedBlobs,
        worker: Worker,
        life: Path,
    ) -> None:
        """`life` is the file that keeps this backend's id, for the one that comes after it."""
        self._catalog = catalog
        self._lexical = lexical
        self._blobs = blobs
        self._worker = worker
        self._life = life
        self._threads = Threads(_THREADS, "following")
        self._before: str | None = None
        self._seen: dict[str, tuple[int, int]] = {}
        """{store id: its generation and revision, of which nothing new is missing here}."""
        self._compared: dict[str, tuple[int, int]] = {}
        """The same, and nothing is here that is gone."""
        self._rests: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._checked = self._arrived = False

    async def arrive(self) -> None:
        """Before any work: be alive, and have what was this backend's before."""
        await self._threads.run(self._catalog.beat)
        before = await self._threads.run(self._take_over_life)
        await self._threads.run(self._catalog.inherit, before)

    def start(self) -> None:
        """Follow until `stop`. The first look may take minutes: nobody waits for it but the worker,
        who begins when it is known that what there is of the word index can be used."""
        self._tasks = [
            asyncio.create_task(self._repeat(step, seconds))
            for step, seconds in (
                (self._live, BEAT_SECONDS),
                (self._follow, FOLLOW_SECONDS),
                (self._compare, _COMPARE_SECONDS),
                (self._tidy, _TIDY_SECONDS),
            )
        ]

    async def stop(self) -> None:
        """Stop; what this backend has not finished is free for the others at once."""
        self._lexical.halt()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def leave(self) -> None:
        """After all work: the others need not wait for this backend to be taken for dead."""
        try:
            await self._threads.run(self._catalog.leave)
        except RAGError as error:
            log.warning("the other backends take this one for dead in a while: %s", error)
        await asyncio.to_thread(self._threads.close)

    @property
    def arriving(self) -> str | None:
        """What is not there yet since the start, in a sentence; None once it was."""
        if self._arrived:
            return None
        return (
            "The word index of this backend is being made from the catalog "
            f"({len(self._seen)} vector stores so far): searches find less until it is whole."
        )

    @property
    def behind(self) -> bool:
        """Whether the catalog has changed since it was last followed. Synchronous."""
        now = self._catalog.revisions()
        return self._seen != now or self._compared != now or bool(self._lexical.touched)

    def has_followed(self, store: Store) -> bool:
        """Whether the word index has whatever this revision of a store has."""
        return self._seen.get(store.id) == (store.generation, store.revision)

    def _take_over_life(self) -> str | None:
        """The id that the last backend of this DATA_DIR had; this one's is written down."""
        before = self._life.read_text("utf-8").strip() if self._life.is_file() else None
        self._life.write_text(str(self._catalog.owner), "utf-8")
        return before

    async def _repeat(self, step: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Until cancelled; a catalog that is away for a while is waited for."""
        loop = asyncio.get_running_loop()
        silent_since: float | None = None
        said = False
        while True:
            try:
                await step()
                if said:
                    log.warning("the catalog answers again")
                silent_since, said = None, False
            except RAGError as error:
                silent_since = loop.time() if silent_since is None else silent_since
                if not said and loop.time() - silent_since >= _LONG_SECONDS:
                    log.error("%s", error)
                    said = True
            except Exception:
                log.exception("following the other backends failed; it goes on")
            await asyncio.sleep(seconds)

    async def _live(self) -> None:
        await self._threads.run(self._catalog.beat)
        for file in await self._threads.run(self._catalog.claim_jobs):
            self._worker.submit(file)
        for store in await self._threads.run(self._catalog.claim_rebuilds):
            self._worker.resume_rebuild(store.id)
        if await self._threads.run(self._catalog.has_garbage):
            self._worker.sweep()

    async def _follow(self) -> None:
        """Bring the word indexes of stores that have changed what is new, a slice each in turn."""
        behind = self._checked
        while behind:
            behind = False
            revisions = await self._threads.run(self._catalog.revisions)
            for store_id in self._seen.keys() - revisions.keys():
                del self._seen[store_id]
            for store_id, revision in revisions.items():
                seen = self._seen.get(store_id)
                if seen == revision:
                    continue
                after = seen[1] if seen else -1
                if await self._threads.run(self._lexical.follow, store_id, after):
                    self._seen[store_id] = revision
                else:
                    behind = True

    async def _compare(self) -> None:
        """Bring the word indexes of stores that have changed to what the catalog says."""
        if not self._checked:
            await self._begin()
        loop = asyncio.get_running_loop()
        revisions = await self._threads.run(self._catalog.revisions)
        touched = self._lexical.touched
        for store_id in {*self._compared, *self._lexical.stores()} - revisions.keys():
            await self._threads.run(self._lexical.compare, store_id)
            self._compared.pop(store_id, None)
            self._rests.pop(store_id, None)
        for store_id, revision in revisions.items():
            begun = loop.time()
            same = self._compared.get(store_id) == revision and store_id not in touched
            if same or begun < self._rests.get(store_id, 0.0):
                continue
            await self._threads.run(self._lexical.compare, store_id)
            self._compared[store_id] = revision
            self._seen.setdefault(store_id, revision)
            took = loop.time() - begun
            self._rests[store_id] = loop.time() + min(took / _COMPARED_SHARE, _LONGEST_REST)
        self._arrived = True

    async def _begin(self) -> None:
        """Look at what an earlier life has left of the word index; then the worker may write."""
        for store in await self._threads.run(self._catalog.list_stores):
            try:
                await self._threads.run(self._lexical.check, store)
            except RAGError as error:
                log.error("%s", error)
        await self._worker.start()
        self._checked = True

    async def _tidy(self) -> None:
        await self._threads.run(self._catalog.forget_the_dead)
        await self._threads.run(self._blobs.forget_deleted)
