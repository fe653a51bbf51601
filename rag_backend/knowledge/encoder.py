"""The encoder while it loads and after: one object that everybody who embeds waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from rag_backend.errors import Conflict, StartError, Starting
from rag_backend.knowledge.embedding import EmbeddingProvider, probe, same_model
from rag_backend.knowledge.finishing import apart
from rag_backend.knowledge.models import Store

_PATIENCE = 10.0
"""Seconds that a request waits for the encoder before it is told to come back."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A loaded embedding provider and its fingerprint."""

    embedding: EmbeddingProvider
    probe: bytes

    def check(self, store: Store) -> None:
        """Raise Conflict when the store's vectors come from another model."""
        if store.embedding_probe is None or same_model(store.embedding_probe, self.probe):
            return
        raise Conflict(
            f"Vector store '{store.name}' was embedded with {store.embedding_model}, and "
            f"EMBEDDING_MODEL is {self.embedding.model_id} now: set it back, or re-embed with "
            f"`python -m ingest rebuild --store {store.name}`.",
            code="embedding_model_changed",
        )


class EncoderLoader:
    """Loads the encoder in a thread, so that /health answers meanwhile."""

    def __init__(self, load: Callable[[], EmbeddingProvider]) -> None:
        self._load = load
        self._task: asyncio.Task[Encoder] | None = None

    def start(self) -> None:
        """Begin to load; call once, inside the event loop."""
        self._task = asyncio.create_task(apart("encoder", self._load_and_probe))

    async def stop(self) -> None:
        """Wait no longer for it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def wait(self) -> Encoder:
        """The encoder, however long it takes; raises StartError when it cannot be loaded."""
        if self._task is None:
            raise StartError("The encoder was not started.")
        return await asyncio.shield(self._task)

    async def get(self) -> Encoder:
        """The encoder for a request; raises Starting when it is not there within seconds."""
        try:
            return await asyncio.wait_for(self.wait(), _PATIENCE)
        except TimeoutError as error:
            raise Starting("The encoder is still loading: try again in a moment.") from error

    @property
    def ready(self) -> bool:
        """Whether the encoder is loaded."""
        task = self._task
        return task is not None and task.done() and not task.cancelled() and not task.exception()

    @property
    def max_tokens(self) -> int | None:
        """The tokens of one text that the encoder reads; None while it loads."""
        task = self._task
        return task.result().embedding.max_tokens if task is not None and self.ready else None

    def _load_and_probe(self) -> Encoder:
        embedding = self._load()
        return Encoder(embedding, probe(embedding))
