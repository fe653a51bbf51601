"""The one place that builds the server's parts and wires them."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Depends, FastAPI

from llm_offline.api import embeddings, models, operations, tasks, texts
from llm_offline.api.boundary import install, require_key
from llm_offline.encoder_device import EMBEDDED
from llm_offline.encoding import Encoder, Encoding
from llm_offline.errors import StartError
from llm_offline.fitting import Need
from llm_offline.loaded import LoadedModel, Loader
from llm_offline.missing import sentence
from llm_offline.pool import Pool
from llm_offline.progress import Progress
from llm_offline.serving import Serving
from llm_offline.settings import Settings
from llm_offline.threads import Threads

log = logging.getLogger(__name__)

_PREPARING = 4
"""Threads that write prompts, count tokens and make grammars."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What works behind the server, and ends with it.

    Attributes:
        serving: The model.
        encoding: The encoder.
        preparing: Threads for what requests need before the model has them.
        loading: Threads that load the encoder.
    """

    serving: Serving
    encoding: Encoding
    preparing: Pool
    loading: Threads

    def stop(self) -> None:
        """Refuse new requests, end the others with an error."""
        self.serving.stop()
        self.encoding.stop()
        self.preparing.stop()

    def has_threads(self) -> bool:
        """Whether, after `stop`, a thread still computes: none of them can be told to end."""
        return (
            self.serving.has_threads()
            or self.encoding.has_threads()
            or not self.preparing.join(1.0)
            or not self.loading.join(1.0)
        )


def create_app(
    settings: Settings,
    loader: Loader | None = None,
    load_encoder: Callable[[], Encoder] | None = None,
) -> tuple[FastAPI, Parts]:
    """The server, and what is behind it: the model begins to load when the server starts.

    Args:
        settings: Everything that can be chosen.
        loader: How models are loaded; None is transformers' way.
        load_encoder: The same for the encoder, in a thread; None is sentence-transformers' way.
    """
    parts = _parts(settings, loader, load_encoder)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts.serving.start()
        if settings.idle_unload is not None:
            parts.encoding.unload_after(settings.idle_unload)
        yield
        parts.stop()

    app = FastAPI(
        title="llm_offline",
        description="One Hugging Face model behind OpenAI's API.",
        # The documents' page would fetch its scripts from the internet.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.serving = parts.serving
    app.state.encoding = parts.encoding
    app.state.preparing = parts.preparing
    app.include_router(operations.open_router)
    for part in (texts, tasks, embeddings, models, operations):
        app.include_router(part.router, dependencies=[Depends(require_key)])
    install(app)
    return app, parts


def _parts(
    settings: Settings, loader: Loader | None, load_encoder: Callable[[], Encoder] | None
) -> Parts:
    """See `create_app`."""
    # Two threads that import the same large packages at once may see them half made.
    importing = threading.Lock()
    loading = Threads()
    make = load_encoder or (lambda: _load_encoder(importing, settings))
    encoding = Encoding(
        lambda: loading.run("loading the encoder", make),
        limit=settings.max_batch + settings.max_queue,
        give_back=lambda: loading.run("giving memory back", reading.give_back),
    )
    reading = loader or _Transformers(importing, lambda: encoding.status().state != "ready")
    return Parts(
        serving=Serving(settings, reading),
        encoding=encoding,
        preparing=Pool(_PREPARING, "preparing"),
        loading=loading,
    )


class _Transformers:
    """Loads with transformers, which it imports in the thread that loads.

    That takes seconds, and the server listens meanwhile.
    """

    def __init__(self, importing: threading.Lock, encoder_to_come: Callable[[], bool]) -> None:
        """`encoder_to_come`: whether room must be kept for it; once there, it has its own."""
        self._importing = importing
        self._encoder_to_come = encoder_to_come

    def weigh(self, settings: Settings, progress: Progress) -> Need:
        """See `Loader.weigh`."""
        progress.enter("importing PyTorch and transformers")
        with self._importing:
            from llm_offline.engine.hardware.device import choose_device
            from llm_offline.hub import local_folder
            from llm_offline.weighing import weigh

        # The encoder is loaded when it is wanted; that it cannot be is told at once. Its folder
        # may come later, and the rest of the server does without.
        choose_device(settings.embedding_device, flag="--embedding-device")
        to_come = self._encoder_to_come()
        try:
            if to_come and settings.embedding_model != EMBEDDED:
                local_folder(settings.embedding_model, flag="--embedding-model")
        except StartError as error:
            log.warning("%s; until there is, /v1/embeddings answers 503", error)
        return weigh(settings, progress, encoder=to_come)

    def load(self, settings: Settings, progress: Progress) -> LoadedModel:
        """See `Loader.load`."""
        with self._importing:
            from llm_offline.engine.hardware.device import returnable
            from llm_offline.loading import load_model

        with returnable():
            return load_model(settings, progress, encoder=self._encoder_to_come())

    def give_back(self) -> None:
        """See `Loader.give_back`."""
        with self._importing:
            from llm_offline.engine.hardware.device import give_back

        give_back()


def _load_encoder(importing: threading.Lock, settings: Settings) -> Encoder:
    try:
        with importing:
            from llm_offline.embedding import SentenceEncoder
    except ModuleNotFoundError as error:
        raise StartError(sentence(error) or str(error)) from error
    return SentenceEncoder(settings)
