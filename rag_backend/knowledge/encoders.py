"""The encoder of a store: the present one or, while it is re-embedded, the one it had before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from rag_backend.errors import StartError, Starting
from rag_backend.knowledge.embedding import EmbeddingProvider, same_model
from rag_backend.knowledge.encoder import Encoder, EncoderLoader
from rag_backend.knowledge.models import Store

log = logging.getLogger(__name__)


class Encoders:
    """The present encoder, and, while stores are re-embedded, those that they had before."""

    def __init__(self, present: EncoderLoader, load: Callable[[str], EmbeddingProvider]) -> None:
        """`load` loads an encoder by the id that a store remembers."""
        self.present = present
        self._load = load
        self._earlier: dict[str, EncoderLoader] = {}
        self._refused: set[str] = set()

    async def for_search(self, store: Store) -> Encoder | None:
        """What embeds a query to the store; None: it is searched by words alone.

        Raises:
            Starting: The present encoder is still loading.
            Conflict: The store was embedded with another model, and is not being re-embedded.
        """
        present = await self.present.get()
        if _fits(present, store):
            return present
        try:
            return await self._before(store, present, patient=False)
        except Starting:
            return None

    async def for_writing(self, store: Store) -> Encoder | None:
        """What embeds a new file of the store, however long it takes to load; None: words alone.

        Raises:
            StartError: The present encoder cannot be loaded.
            Conflict: See `for_search`.
        """
        present = await self.present.wait()
        return present if _fits(present, store) else await self._before(store, present, True)

    async def keep_only(self, stores: Iterable[Store]) -> None:
        """Drop the encoders that none of the stores needs any more."""
        needed = {store.embedding_model for store in stores if store.rebuilding}
        for model in [name for name in self._earlier if name not in needed]:
            await self._earlier.pop(model).stop()
        self._refused &= needed

    async def stop(self) -> None:
        """Drop all but the present one, which is not ours to stop."""
        await self.keep_only(())

    async def _before(self, store: Store, present: Encoder, patient: bool) -> Encoder | None:
        """The encoder of a store that is being re-embedded."""
        model = store.embedding_model
        if not store.rebuilding or model is None:
            present.check(store)
            return None
        if model not in self._earlier:
            self._earlier[model] = EncoderLoader(lambda: self._load(model))
            self._earlier[model].start()
        loader = self._earlier[model]
        try:
            found = await (loader.wait() if patient else loader.get())
        except StartError as error:
            self._say(model, store, str(error))
            return None
        except asyncio.CancelledError:
            if self._earlier.get(model) is loader:
                raise
            return None  # it was dropped: the store has been re-embedded meanwhile
        if not _fits(found, store):
            self._say(model, store, f"What '{model}' names now is another model.")
            return None
        return found

    def _say(self, model: str, store: Store, reason: str) -> None:
        if model not in self._refused:
            self._refused.add(model)
            log.warning(
                "vector store '%s' is searched by words alone until it is re-embedded: %s",
                *(store.name, reason),
            )


def _fits(encoder: Encoder, store: Store) -> bool:
    known = store.embedding_probe
    return known is None or same_model(known, encoder.probe)
