"""Which stores are being rebuilt or repaired, from when it is asked for until it is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from rag_backend.errors import (
    Conflict,
    NotFound,
    RAGError,
    StartError,
    StorageAway,
    StorageBroken,
)
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.encoders import Encoders
from rag_backend.knowledge.finishing import Threads
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import Progress, Store
from rag_backend.knowledge.recovery import Lost, Recovery
from rag_backend.knowledge.refilling import DEFECT, Refill, begin_rebuild
from rag_backend.knowledge.vectors import VectorIndex

_RETRY_SECONDS = 60
"""After this, a rebuild goes on that was stopped by an error."""
_AWAY_SECONDS = 5
"""The same, where a database server did not answer."""

log = logging.getLogger(__name__)


class Refills:
    """Begins refills, says how they go on, and ends them. For the event loop.

    Attributes:
        under_way: By store id; the writer looks at it.
        writing: Held by who writes, and while a refill begins: nothing may be swept between a look
            at what an index holds and the refill that is made of it.
    """

    def __init__(
        self,
        catalog: Catalog,
        vectors: VectorIndex,
        lexical: LexicalIndex,
        encoders: Encoders,
        recovery: Recovery,
        threads: Threads,
        add: Callable[[Refill], None],
    ) -> None:
        """`add` gives a refill its turns."""
        self._catalog = catalog
        self._vectors = vectors
        self._lexical = lexical
        self._encoders = encoders
        self._recovery = recovery
        self._threads = threads
        self._add = add
        self.under_way: dict[str, list[Refill]] = {}
        self.writing = asyncio.Lock()
        self._asked: set[str] = set()
        self._beginning: set[str] = set()
        self._repairing: set[str] = set()
        self._stopped: dict[str, str] = {}
        self._retries: set[asyncio.Task[None]] = set()
        self._ending = False

    async def rebuild(self, store_id: str) -> None:
        """Begin to fill the next generation of a store, unless that is under way."""
        self._asked.add(store_id)
        if store_id in self._beginning:
            return
        self._beginning.add(store_id)
        try:
            # Again where it was asked for meanwhile: the store may have been looked at before.
            while store_id in self._asked:
                self._asked.remove(store_id)
                await self._rebuild(store_id)
        finally:
            self._asked.discard(store_id)
            self._beginning.remove(store_id)

    async def _rebuild(self, store_id: str) -> None:
        try:
            present = await self._encoders.present.wait()
            # Looked at in here too: a rebuild that is about to end is none that is under way.
            async with self.writing:
                store = await self._threads.run(self._catalog.store, store_id)
                if not store.rebuilding or self.mirror_of(store) is not None:
                    self._stopped.pop(store_id, None)
                    return
                if store.rebuilder != self._catalog.owner:
                    return  # another backend's by now
                refill = await self._threads.run(
                    begin_rebuild, self._catalog, self._vectors, self._lexical, store, present
                )
                self._begin(refill)
        except NotFound:
            self._stopped.pop(store_id, None)
        except StartError:
            return  # said where files are read
        except RAGError as error:
            self._rebuild_again(store_id, error)
        except Exception:
            log.exception("rebuilding %s stopped", store_id)
            self._rebuild_again(store_id, StorageBroken(DEFECT))
        else:
            log.info("vector store '%s' is rebuilt: %d chunks", store.name, refill.total)
            self._stopped.pop(store_id, None)

    def repair(self, store: Store, lost: Lost) -> Coroutine[Any, Any, None]:
        """Put back what a store has lost, which is `progress` from now on."""
        if lost.postings or lost.vectors:
            self._repairing.add(store.id)
        return self._repair(store, lost)

    async def _repair(self, store: Store, lost: Lost) -> None:
        """Words first, which need no encoder; what is still lost when it stops is tried again."""
        try:
            if lost.postings:
                async with self.writing:
                    self._begin(await self._threads.run(self._recovery.postings, store))
                lost = Lost(postings=False, vectors=lost.vectors)
            if lost.vectors:
                encoder = await self._encoders.present.wait()
                encoder.check(store)
                async with self.writing:
                    self._begin(await self._threads.run(self._recovery.vectors, store, encoder))
            self._stopped.pop(store.id, None)
        except StartError:
            return  # said where files are read
        except Conflict as error:  # only a rebuild helps
            self._stopped.pop(store.id, None)
            log.error("vector store '%s' cannot be repaired: %s", store.name, error)
        except RAGError as error:
            self._repair_again(store, lost, error)
        except Exception:
            log.exception("repairing '%s' stopped", store.name)
            self._repair_again(store, lost, StorageBroken(DEFECT))
        finally:
            self._repairing.discard(store.id)

    def _begin(self, refill: Refill | None) -> None:
        if refill is not None:
            self.under_way.setdefault(refill.store.id, []).append(refill)
            self._add(refill)

    def interrupt(self, store_id: str, error: RAGError) -> None:
        """What refills of a store have written is lost: they end, and rebuilds begin again."""
        for refill in self.under_way.get(store_id, ()):
            refill.error = refill.error or error

    async def finish(self, refill: Refill, is_done: Callable[[Refill], bool]) -> bool:
        """All that a refill has given is written: end it, unless it has found more to do."""
        store_id, name = refill.store.id, refill.store.name
        if refill not in self.under_way.get(store_id, ()):
            return True  # it was ended before
        error: RAGError | None = None
        try:
            if not await self._threads.run(is_done, refill):
                self._add(refill)
                return False
            log.info("vector store '%s' has what it lacked", name)
        except RAGError as problem:
            error = problem
        except Exception:
            log.exception("refilling '%s' stopped", name)
            error = StorageBroken(DEFECT)
        self.under_way[store_id].remove(refill)
        if not self.under_way[store_id]:
            del self.under_way[store_id]
        if error is not None and refill.repairs:
            lost = Lost(postings=refill.postings, vectors=refill.encoder is not None)
            self._repair_again(refill.store, lost, error)
        elif error is not None:
            self._rebuild_again(store_id, error)
        await self._let_go()
        return True

    async def _let_go(self) -> None:
        """Of encoders that no store needs any more."""
        try:
            stores = await self._threads.run(self._catalog.list_stores)
        except RAGError as error:
            log.warning("earlier encoders stay in memory for now: %s", error)
            return
        await self._encoders.keep_only(stores)

    def _rebuild_again(self, store_id: str, error: RAGError) -> None:
        self._later(f"rebuilding {store_id}", store_id, error, lambda: self.rebuild(store_id))

    def _repair_again(self, store: Store, lost: Lost, error: RAGError) -> None:
        async def again() -> None:
            """Of the store as it is by then: one that is rebuilt lacks nothing."""
            try:
                now = await self._threads.run(self._catalog.store, store.id)
            except NotFound:
                self._stopped.pop(store.id, None)
                return
            except RAGError as problem:
                self._repair_again(store, lost, problem)
                return
            if now.rebuilding or now.collection != store.collection:
                self._stopped.pop(store.id, None)
                return
            self._repairing.add(now.id)
            await self._repair(now, lost)

        self._later(f"repairing '{store.name}'", store.id, error, again)

    def _later(
        self, what: str, store_id: str, error: RAGError, again: Callable[[], Awaitable[None]]
    ) -> None:
        if self._ending:
            return
        self._stopped[store_id] = str(error)
        seconds = _AWAY_SECONDS if isinstance(error, StorageAway) else _RETRY_SECONDS
        log.error("%s stopped; it goes on in %g s, and at the next start: %s", what, seconds, error)

        async def wait() -> None:
            await asyncio.sleep(seconds)
            await again()

        task = asyncio.create_task(wait())
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)

    def stop(self) -> None:
        """Try nothing again."""
        self._ending = True
        for task in self._retries:
            task.cancel()

    # What others ask

    def mirror_of(self, store: Store) -> Refill | None:
        """The rebuild under way: new files go to both generations."""
        listed: Sequence[Refill] = self.under_way.get(store.id, ()) if store.rebuilding else ()
        return next((refill for refill in listed if not refill.repairs), None)

    def progress(self, store: Store) -> Progress | None:
        """How far a rebuild or repair of the store is; None when there is none."""
        listed = self.under_way.get(store.id, ())
        known = store.id in self._repairing or store.id in self._stopped
        if not (listed or store.rebuilding or known):
            return None
        made, total = sum(each.made for each in listed), sum(each.total for each in listed)
        return Progress(min(made, total), total, None if listed else self._stopped.get(store.id))

    @property
    def names(self) -> list[str]:
        """Of the stores that are being rebuilt or repaired."""
        return [listed[0].store.name for listed in self.under_way.values()]

    @property
    def problem(self) -> str | None:
        """Why a rebuild has stopped, in a sentence."""
        return next(iter(self._stopped.values()), None)
