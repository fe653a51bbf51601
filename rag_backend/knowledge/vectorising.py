"""Slices of many files to vectors: large batches sorted by length, in short steps.

An embedding server that is away is waited for, and fails nothing. Whether it is away, or one of the
texts is what it fails at, a text that it has embedded before tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from rag_backend.errors import RAGError, UpstreamError, UpstreamLimited, UpstreamRefused
from rag_backend.knowledge.embedding import Vectors, probe
from rag_backend.knowledge.encoder import Encoder
from rag_backend.knowledge.finishing import Threads
from rag_backend.knowledge.jobs import Slice
from rag_backend.patience import is_passing

_STEP = 256
"""Chunks embedded in one go; `stop` waits for at most so many."""
_AWAY_SECONDS = 5.0
"""Between two looks at an embedding server that is away."""
_STRIKES = 3
"""How often a file's chunks may fail at a server that embeds other texts."""
_RETURNS = 2
"""How often a batch may fail at a server that has just come back, before its files go alone."""
_FALLS = 5
"""How often a server may be away after a file's chunks, and nothing else, before they fail: it is
they that it dies of, or is busy with for too long."""

log = logging.getLogger(__name__)


class Vectoriser:
    """Embeds what is to be embedded. For the event loop.

    Attributes:
        problem: Why it waits for the embedding server, in a sentence; None while it does not.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self.problem: str | None = None

    async def add_vectors(self, slices: Sequence[Slice]) -> None:
        """Embed slices, however long it takes; one that cannot be embedded gets an `error`."""
        by_encoder: dict[Encoder, list[Slice]] = {}
        for part in slices:
            if part.job.encoder is not None and part.error is None:
                by_encoder.setdefault(part.job.encoder, []).append(part)
        try:
            for encoder, those in by_encoder.items():
                await self._embed_all(encoder, those)
        finally:
            self.problem = None

    async def _embed_all(self, encoder: Encoder, slices: Sequence[Slice]) -> None:
        """Together, or each alone, when something of them is at fault."""
        falls = 0
        while those := _wanted(slices):
            try:
                await self._embed(encoder, those)
            except UpstreamError as error:
                if is_passing(error) and await self._is_away(encoder, error):
                    falls += not isinstance(error, UpstreamLimited)
                    if falls <= _RETURNS:  # the first one was nobody's fault
                        continue
            except RAGError as error:
                for part in those:
                    part.error = error
                return
            except Exception:
                log.exception("embedding %s failed", sorted({part.job.file_id for part in those}))
            else:
                break
            for part in those:
                await self._embed_alone(encoder, part)  # the others need not suffer
            break
        self._answers_again()

    async def _embed_alone(self, encoder: Encoder, part: Slice) -> None:
        strikes = falls = 0
        while _wanted([part]):
            try:
                await self._embed(encoder, [part])
            except UpstreamError as error:
                if is_passing(error):
                    away = await self._is_away(encoder, error)
                    strikes += not away
                    falls += away and not isinstance(error, UpstreamLimited)
                    if strikes < _STRIKES and falls < _FALLS:
                        continue
                    if falls >= _FALLS:
                        error = UpstreamError(_FATAL.format(times=falls, error=error))
                await self._fail(encoder, part, error)
            except RAGError as error:
                part.error = error
            except Exception as error:
                log.exception("embedding %s failed", part.job.file_id)
                await self._fail(encoder, part, error)
            return

    async def _fail(self, encoder: Encoder, part: Slice, error: Exception) -> None:
        """A new file fails. A refill goes on, and finds these chunks by their words, while the
        encoder embeds other texts: where it embeds nothing, what the store has had is better."""
        if part.job.refill is None:
            part.error = error
            return
        try:
            await self._threads.run(probe, encoder.embedding)
        except RAGError as nothing:
            part.error = nothing
        except Exception as nothing:
            log.exception("the encoder embeds nothing")
            part.error = nothing
        else:
            log.warning("a part of %s is found by its words alone: %s", part.job.file_id, error)

    async def _embed(self, encoder: Encoder, slices: Sequence[Slice]) -> None:
        texts = [text for part in slices for text in part.texts]
        # Neighbours in length share a step, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        vectors: Vectors = np.empty((len(texts), len(encoder.probe) // 4), dtype=np.float32)
        for at in range(0, len(order), _STEP):
            step = order[at : at + _STEP]
            vectors[step] = await self._threads.run(
                encoder.embedding.embed, [texts[n] for n in step], "document"
            )
        start = 0
        for part in slices:
            part.vectors = vectors[start : start + len(part.texts)]
            start += len(part.texts)

    async def _is_away(self, encoder: Encoder, error: UpstreamError) -> bool:
        """Whether the failure is the server's state, and no text's doing; until that is over."""
        if isinstance(error, UpstreamLimited):  # a full queue says so whatever the text
            await self._wait(error)
            return True
        away = False
        while True:
            try:
                await self._threads.run(probe, encoder.embedding)
            except UpstreamRefused:
                return False  # it answers, and will not have anything: that does not pass
            except UpstreamError as now:
                away = True
                await self._wait(now)
            else:
                return away

    async def _wait(self, error: UpstreamError) -> None:
        if self.problem is None:
            log.warning("documents wait for the embedding server: %s", error)
        self.problem = f"Documents wait for the embedding server: {error}"
        await asyncio.sleep(max(_AWAY_SECONDS, error.retry_after or 0.0))

    def _answers_again(self) -> None:
        if self.problem is not None:
            log.info("the embedding server answers again; documents go on")
            self.problem = None


def _wanted(slices: Sequence[Slice]) -> list[Slice]:
    """Those that nobody has removed meanwhile, and that are not done with."""
    return [part for part in slices if part.error is None and not part.job.ended]


_FATAL = (
    "The embedding server was away after each of {times} attempts at this file, and answered other "
    "texts in between: give it more memory or time, then ingest the file again. The last time: "
    "{error}"
)
