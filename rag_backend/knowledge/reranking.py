"""Optional cross-encoder: reads the query and a candidate together and orders the best anew.

A search never waits for it to load and never fails with it: without it, the fused order stands.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rag_backend.errors import StartError
from rag_backend.knowledge.finishing import apart

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

RERANKED = 50
"""Fused candidates that are read again: as many as a search gives at most."""
_BATCH = 16
_REMEDY = (
    "Give the folder of a sentence-transformers CrossEncoder with one label, or the Hugging Face "
    "id of one where the hub can be reached, or leave it empty."
)
_HEADS = ("ForSequenceClassification", "ForCausalLM")

log = logging.getLogger(__name__)


class Reranker(Protocol):
    """Judges texts against a query."""

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers, in 0..1. Synchronous, thread-safe.

        Raises:
            RerankingFailed: The model cannot judge these texts.
        """
        ...


class RerankingFailed(Exception):
    """A reranker failed; never leaves this package, since the fused order takes its place."""


class CrossEncoderReranker:
    """Any sentence-transformers CrossEncoder that gives one score, on the CPU."""

    def __init__(self, model: CrossEncoder) -> None:
        import torch

        self._model = model
        # Most rerankers are trained on logits; some say so and leave the sigmoid out.
        self._to_share = torch.nn.Sigmoid()
        self._lock = threading.Lock()  # fast tokenizers must not be shared by threads

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """See Reranker."""
        if not texts:
            return []
        pairs = [(query, text) for text in texts]
        try:
            with self._lock:
                found = self._model.predict(
                    pairs,
                    batch_size=_BATCH,
                    show_progress_bar=False,
                    activation_fn=self._to_share,
                    convert_to_tensor=True,
                )
            return [min(1.0, max(0.0, float(score))) for score in found.float().cpu()]
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise RerankingFailed(str(error)) from error


def check_reranker(model: str) -> None:
    """Refuse a path without a model; raises StartError. A hub id is tried when it is loaded."""
    folder = Path(model).expanduser()
    path = folder.is_dir() or folder.is_absolute() or model.startswith((".", "~"))
    if path and not (folder / "config.json").is_file():
        missing = "no model in this folder" if folder.is_dir() else "no such folder"
        raise StartError(f"RERANKER_MODEL={model}: there is {missing}. {_REMEDY}")


def load_reranker(model: str) -> CrossEncoderReranker:
    """Load the cross-encoder named by RERANKER_MODEL; takes seconds.

    Raises:
        StartError: The model is not there or gives no single score; says what to do.
    """
    check_reranker(model)
    # Imported here, not above: it takes seconds, and the server answers /health meanwhile.
    from sentence_transformers import CrossEncoder

    from rag_backend.knowledge.hub import here_or_from_hub

    folder = Path(model).expanduser()
    local = folder.is_dir()

    def load(here: bool) -> CrossEncoder:
        name = str(folder) if local else model
        encoder: CrossEncoder = CrossEncoder(name, device="cpu", local_files_only=here)
        return encoder

    try:
        loaded = here_or_from_hub(load, model, local, "RERANKER_MODEL")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        log.debug("reranker %s", model, exc_info=error)
        raise StartError(f"RERANKER_MODEL={model} cannot be loaded. {_REMEDY}") from error
    kinds = getattr(loaded.config, "architectures", None) or [""]
    # An encoder without a head would get one of random weights.
    headless = len(loaded) == 1 and not kinds[0].endswith(_HEADS)
    if loaded.num_labels != 1 or headless:
        raise StartError(
            f"RERANKER_MODEL={model} does not judge a pair of texts with one score. {_REMEDY}"
        )
    loaded.eval()
    return CrossEncoderReranker(loaded)


class Reranking:
    """The reranker while it loads and after; None stands for every reason not to have one."""

    def __init__(self, load: Callable[[], Reranker] | None = None) -> None:
        self._load = load
        self._task: asyncio.Task[Reranker] | None = None
        self._complained = False
        # Its own: it may take seconds a query, and nothing but its queries waits for that.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reranking")

    def start(self) -> None:
        """Begin to load; call once, inside the event loop."""
        if self._load is not None:
            self._task = asyncio.create_task(apart("reranker", self._load))
            self._task.add_done_callback(self._complain_of)

    async def stop(self) -> None:
        """Wait no longer for it, but for what it judges now."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def wait(self) -> Reranker | None:
        """The reranker, however long it takes; None where none is set; raises StartError."""
        return None if self._task is None else await asyncio.shield(self._task)

    @property
    def ready(self) -> bool:
        """Whether there is a reranker, and it is loaded."""
        task = self._task
        return task is not None and task.done() and not task.cancelled() and not task.exception()

    async def scores(self, query: str, texts: Sequence[str]) -> list[float] | None:
        """Reranker.scores; None while there is no reranker, and when it fails."""
        task = self._task
        if task is None or not self.ready:
            return None
        try:
            work = partial(task.result().scores, query, texts)
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RerankingFailed as error:
            self._complain(str(error))
            return None

    def _complain_of(self, task: asyncio.Task[Reranker]) -> None:
        if not task.cancelled() and task.exception():
            self._complain(str(task.exception()))

    def _complain(self, why: str) -> None:
        """Once: a search a second would fill the log."""
        if not self._complained:
            self._complained = True
            log.warning("searches keep their fused order: the reranker failed: %s", why)
