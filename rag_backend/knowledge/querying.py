"""Queries to vectors, in threads of their own and for as long as a search waits.

An encoder that gives no vector now (a server that hangs or is away, a machine out of breath) costs
a search its time limit at most and the dense half of its results, and nobody else anything.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rag_backend.errors import UpstreamError
from rag_backend.knowledge.embedding import QUERY_SECONDS, Vectors
from rag_backend.knowledge.encoder import Encoder
from rag_backend.patience import is_passing

_THREADS = 8
"""They mostly wait: for a server, or for each other."""

log = logging.getLogger(__name__)


class Queries:
    """Embeds queries. For the event loop; `close` it.

    Attributes:
        unanswered: How many queries have got no vector, or none in time.
        problem: Why the last one has got none, in a sentence; None when it has.
    """

    def __init__(self, patience: float = QUERY_SECONDS) -> None:
        """`patience`: seconds."""
        self._patience = patience
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="queries")
        self.unanswered = 0
        self.problem: str | None = None

    async def vector(self, encoder: Encoder, query: str) -> Vectors | None:
        """The query's unit vector (float32, one dimension); None when there is none now.

        Raises:
            UpstreamError: The embedding server refuses, which does not pass.
        """
        work = partial(encoder.embedding.embed, [query], "query")
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            async with asyncio.timeout(self._patience):
                vectors = await running
        except TimeoutError:
            self._note(f"no vector of a query came within {self._patience:g} s")
            return None
        except UpstreamError as error:
            if not is_passing(error):
                raise
            self._note(str(error))
            return None
        if self.problem is not None:
            log.info("the encoder gives queries vectors again")
            self.problem = None
        row: Vectors = vectors[0]
        return row

    def close(self) -> None:
        """Wait for what runs. Synchronous."""
        self._pool.shutdown(cancel_futures=True)

    def _note(self, why: str) -> None:
        self.unanswered += 1
        if self.problem is None:  # once: a search a second would fill the log
            log.warning("searches go by words alone while the encoder gives no vectors: %s", why)
        self.problem = f"The encoder gives no vectors, and searches go by words alone: {why}"
