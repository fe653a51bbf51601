"""The one place that builds the server's parts and wires them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from llm_offline.api import embeddings, models, operations, tasks, texts
from llm_offline.api.boundary import Boundary, answer_error, require_key
from llm_offline.api.embeddings import Encoder
from llm_offline.errors import LLMOfflineError
from llm_offline.fitting import Need
from llm_offline.lazy import Lazy
from llm_offline.loaded import LoadedModel, Loader
from llm_offline.progress import Progress
from llm_offline.serving import Serving
from llm_offline.settings import Settings
from llm_offline.threads import Threads


def create_app(settings: Settings, loader: Loader | None = None) -> tuple[ASGIApp, Serving]:
    """The server, and the model behind it, which begins to load when the server starts.

    Args:
        settings: Everything that can be chosen.
        loader: How models are loaded; None is transformers' way.
    """
    # Two threads that import the same large packages at once may see them half made.
    importing = threading.Lock()
    serving = Serving(settings, loader or _Transformers(importing))
    threads = Threads()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        serving.start()
        yield
        serving.stop()

    app = FastAPI(
        title="llm_offline",
        description="One Hugging Face model behind OpenAI's API.",
        # The documents' page would fetch its scripts from the internet.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.serving = serving
    app.state.encoder = Lazy(
        lambda: threads.run("loading the encoder", lambda: _load_encoder(importing, settings))
    )
    app.include_router(operations.open_router)
    for part in (texts, tasks, embeddings, models, operations):
        app.include_router(part.router, dependencies=[Depends(require_key)])
    app.add_exception_handler(LLMOfflineError, answer_error)
    app.add_exception_handler(HTTPException, answer_error)
    return Boundary(app), serving


class _Transformers:
    """Loads with transformers, which it imports in the thread that loads.

    That takes seconds, and the server listens meanwhile.
    """

    def __init__(self, importing: threading.Lock) -> None:
        self._importing = importing

    def weigh(self, settings: Settings, progress: Progress) -> Need:
        """See `Loader.weigh`."""
        progress.enter("importing PyTorch and transformers")
        with self._importing:
            from llm_offline.weighing import weigh

        return weigh(settings, progress)

    def load(self, settings: Settings, progress: Progress) -> LoadedModel:
        """See `Loader.load`."""
        with self._importing:
            from llm_offline.engine.device import returnable
            from llm_offline.loading import load_model

        with returnable():
            return load_model(settings, progress)

    def give_back(self) -> None:
        """See `Loader.give_back`."""
        with self._importing:
            from llm_offline.engine.device import give_back

        give_back()


def _load_encoder(importing: threading.Lock, settings: Settings) -> Encoder:
    with importing:
        from llm_offline.embedding import SentenceEncoder

    return SentenceEncoder(settings)
