"""Slices of many files to vectors: large batches sorted by length, in short steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from rag_backend.errors import RAGError, UpstreamRefused
from rag_backend.knowledge.embedding import Vectors
from rag_backend.knowledge.encoder import Encoder
from rag_backend.knowledge.finishing import Threads
from rag_backend.knowledge.jobs import Slice

_STEP = 256
"""Chunks embedded in one go; `stop` waits for at most so many."""

log = logging.getLogger(__name__)


async def add_vectors(slices: Sequence[Slice], threads: Threads) -> None:
    """Embed what is to be embedded; a slice that cannot be gets an `error`."""
    by_encoder: dict[Encoder, list[Slice]] = {}
    for part in slices:
        if part.job.encoder is not None and part.error is None and not part.job.ended:
            by_encoder.setdefault(part.job.encoder, []).append(part)
    for encoder, those in by_encoder.items():
        try:
            await _embed(encoder, those, threads)
        except UpstreamRefused:
            for part in those:
                await _embed_alone(encoder, part, threads)  # one text is at fault
        except RAGError as error:
            for part in those:
                part.error = error
        except Exception:
            log.exception("embedding %s failed", sorted({part.job.file_id for part in those}))
            for part in those:
                await _embed_alone(encoder, part, threads)  # the others need not suffer


async def _embed(encoder: Encoder, slices: Sequence[Slice], threads: Threads) -> None:
    texts = [text for part in slices for text in part.texts]
    # Neighbours in length share a step, so that little of it is padding.
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
    vectors: Vectors = np.empty((len(texts), len(encoder.probe) // 4), dtype=np.float32)
    for at in range(0, len(order), _STEP):
        step = order[at : at + _STEP]
        vectors[step] = await threads.run(
            encoder.embedding.embed, [texts[n] for n in step], "document"
        )
    start = 0
    for part in slices:
        part.vectors = vectors[start : start + len(part.texts)]
        start += len(part.texts)


async def _embed_alone(encoder: Encoder, part: Slice, threads: Threads) -> None:
    try:
        await _embed(encoder, [part], threads)
    except UpstreamRefused as error:
        if part.job.refill is None:
            part.error = error
        else:
            log.warning("a part of %s is found by its words alone: %s", part.job.file_id, error)
    except RAGError as error:
        part.error = error
    except Exception as error:
        log.exception("embedding %s failed", part.job.file_id)
        if part.job.refill is None:
            part.error = error
        # A rebuild goes on: these chunks are found by their words.
