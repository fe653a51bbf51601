"""The encoder while it loads and after: one object that everybody who embeds waits for."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from rag_backend.errors import Conflict, StartError, Starting, UpstreamError
from rag_backend.knowledge.embedding import (
    Closing,
    EmbeddingProvider,
    Vectors,
    probe,
    same_model,
)
from rag_backend.knowledge.finishing import apart
from rag_backend.knowledge.models import Store

_PATIENCE = 10.0
"""Seconds that a request waits for the encoder before it is told to come back."""
_AGAIN = 5.0
"""Seconds until an embedding server that did not answer is asked again."""
_THREADS = 2
"""For texts that clients have embedded."""

log = logging.getLogger(__name__)


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
    """Loads the encoder in a thread, so that /health answers meanwhile.

    A server of embeddings that is away is asked again until it answers: jobs wait for it, and
    requests are told what is wrong.
    """

    def __init__(self, load: Callable[[], EmbeddingProvider], *, again: float = _AGAIN) -> None:
        """`again`: seconds until a server that did not answer is asked again."""
        self._load = load
        self._again = again
        self._task: asyncio.Task[Encoder] | None = None
        self._embedding: EmbeddingProvider | None = None
        self._stopped = threading.Event()
        self._heard = asyncio.Event()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="embedding")
        self.problem: str | None = None
        """Why the encoder is not there yet, in a sentence, where its server has been asked."""

    def start(self) -> None:
        """Begin to load; call once, inside the event loop."""
        self._task = asyncio.create_task(self._apart())

    async def stop(self) -> None:
        """Wait no longer for it, and let go of its connections."""
        self._stopped.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        embedding: object = self._embedding
        if isinstance(embedding, Closing):
            await asyncio.to_thread(embedding.close)
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def wait(self) -> Encoder:
        """The encoder, however long it takes; raises StartError when it cannot be loaded."""
        if self._task is None:
            raise StartError("The encoder was not started.")
        return await asyncio.shield(self._task)

    async def get(self) -> Encoder:
        """The encoder for a request; raises Starting when it is not there within seconds."""
        if self.problem is not None:
            raise Starting(self.problem)
        try:
            return await asyncio.wait_for(self.wait(), _PATIENCE)
        except TimeoutError as error:
            said = self.problem or "The encoder is still loading: try again in a moment."
            raise Starting(said) from error

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of a client's texts, which may be many: no more than a few clients at a time.

        Raises:
            Starting: The encoder is not there within seconds.
            UpstreamError: An embedding server failed.
        """
        encoder = await self.get()
        work = partial(encoder.embedding.embed, texts, "document")
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def first_word(self) -> Encoder:
        """The encoder, or the first reason why it is not there: Starting or StartError."""
        loading, heard = asyncio.ensure_future(self.wait()), asyncio.ensure_future(self._hear())
        try:
            await asyncio.wait({loading, heard}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                return await loading
            raise Starting(self.problem or "")
        finally:
            loading.cancel()
            heard.cancel()

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

    async def _hear(self) -> None:
        await self._heard.wait()

    async def _apart(self) -> Encoder:
        loop = asyncio.get_running_loop()

        def tell(error: UpstreamError) -> None:
            if self.problem is None:
                log.warning("the encoder cannot be used yet: %s", error)
            self.problem = str(error)
            if not self._stopped.is_set():
                loop.call_soon_threadsafe(self._heard.set)

        encoder = await apart("encoder", lambda: self._load_and_probe(tell))
        if self.problem is not None:
            log.info("the encoder can be used: %s", encoder.embedding.model_id)
            self.problem = None
        return encoder

    def _load_and_probe(self, tell: Callable[[UpstreamError], None]) -> Encoder:
        self._embedding = embedding = self._load()
        while True:
            try:
                return Encoder(embedding, probe(embedding))
            except UpstreamError as error:
                tell(error)
            if self._stopped.wait(self._again):
                raise StartError("The backend is stopping.")
