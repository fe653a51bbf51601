"""Vectors from a server that speaks OpenAI's `/v1/embeddings`: EMBEDDING_URL.

Texts go out in bounded batches, several at a time, from an event loop in a thread of its own, so
that `embed` can be called from any thread and `close` ends whatever is under way.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rag_backend.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from rag_backend.knowledge.embedding import QUERY_SECONDS, Kind, Vectors
from rag_backend.knowledge.long_texts import averaged, halved, halves, unit
from rag_backend.patience import Patience
from rag_backend.text import estimated_tokens
from rag_backend.upstream import SDK_ERRORS, Host

T = TypeVar("T")

_MOST_TEXTS = 64
_MOST_CHARACTERS = 48_000
"""Of one request: some seconds of work for a small machine, and well below any server's limit."""
_IN_FLIGHT = 4
"""Requests with documents at a time: the server computes while others travel."""
_LOOKUP_TIMEOUT = 3.0
_UNNAMED_MODEL = "default"
_EMPTY = "."
"""Stands for a text without content, which servers refuse."""
_TOO_LARGE = frozenset({400, 413, 422})
_ABOUT_LENGTH = re.compile(r"token|length|too (?:long|large|many)|exceed", re.IGNORECASE)
_FEWEST_TOKENS = 64
"""As EMBEDDING_MAX_TOKENS: a text cannot be cut for less."""
_SHORTEST = 64
"""Characters below which a text is not cut again: then length is not what is wrong."""

log = logging.getLogger(__name__)


class ServerEmbedding:
    """An EmbeddingProvider over HTTP; `close` it."""

    tokenizer_file: Path | None = None

    def __init__(
        self,
        host: Host,
        model: str | None,
        max_tokens: int,
        *,
        documents: Patience,
        queries: Patience,
        answer_timeout: float,
        query_timeout: float = QUERY_SECONDS,
    ) -> None:
        """Connect to nothing yet.

        Args:
            model: What the server calls the model; None: what it lists.
            documents, queries: How long to go on asking; a user waits for a query.
            answer_timeout: Longest time for one answer, in seconds.
            query_timeout: The same for a query, all attempts included.
        """
        self.max_tokens = max_tokens
        self._host = host
        self._model = model
        self._served: str | None = None
        self._dimension: int | None = None
        self._patience: Mapping[Kind, Patience] = {"document": documents, "query": queries}
        self._answer_timeout = answer_timeout
        self._query_timeout = query_timeout
        self._told_of_length = False
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._thread = threading.Thread(target=self._run, name="embedding-server", daemon=True)
        self._thread.start()
        self._client = self._wait_for(self._connected())

    @property
    def model_id(self) -> str:
        """EMBEDDING_MODEL, or what the server called its model in its first answer."""
        return self._model or self._served or _UNNAMED_MODEL

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """See EmbeddingProvider.

        Raises:
            UpstreamError: The server is away, refuses, or sends what are no vectors.
        """
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        return self._wait_for(self._embed(texts, kind))

    def close(self) -> None:
        """Give up what is under way and close every connection."""
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # The thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        stopping = UpstreamUnavailable(f"{self._host.who} is not asked: the backend is stopping.")
        if self._closed:
            work.close()
            raise stopping
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError:
            raise stopping from None

    async def _connected(self) -> Any:
        return self._host.client()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    # Inside its event loop

    async def _embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        # Some servers read no further than they can, and say nothing.
        cut = [list(halved(text, self._is_read_whole)) for text in texts]
        pieces = [piece for some in cut for piece in some]
        parts = [asyncio.create_task(self._part(part, kind)) for part in _parts(pieces)]
        try:
            return averaged(np.concatenate(await asyncio.gather(*parts)), cut)
        finally:
            for part in parts:
                part.cancel()

    def _is_read_whole(self, text: str) -> bool:
        """As far as is known: by the estimate that documents are cut by."""
        return estimated_tokens(text) <= self.max_tokens

    async def _part(self, texts: Sequence[str], kind: Kind) -> Vectors:
        if kind == "query":
            return await self._query_vectors(texts)
        async with self._slots:
            return await self._vectors(texts, kind)

    async def _query_vectors(self, texts: Sequence[str]) -> Vectors:
        try:
            async with asyncio.timeout(self._query_timeout):
                return await self._vectors(texts, "query")
        except TimeoutError:
            raise UpstreamTimeout(
                f"{self._host.named} gave no vector of a query within {self._query_timeout:g} s."
            ) from None

    async def _vectors(self, texts: Sequence[str], kind: Kind) -> Vectors:
        try:
            rows: Vectors = await self._patience[kind].ask(self._ask, texts)
            return rows
        except UpstreamRefused as error:
            if error.status not in _TOO_LARGE:
                raise
            return await self._in_halves(texts, kind, error)

    async def _in_halves(self, texts: Sequence[str], kind: Kind, error: UpstreamRefused) -> Vectors:
        """The vectors after a refusal that one long text, or many together, may have caused.

        A text that is too long by itself is read in two parts, whose vectors are averaged by their
        lengths: nothing of it becomes invisible.
        """
        if len(texts) > 1:
            middle = len(texts) // 2
            first = await self._vectors(texts[:middle], kind)
            return np.concatenate([first, await self._vectors(texts[middle:], kind)])
        (text,) = texts
        if len(text) < _SHORTEST or not _is_about_length(error):
            raise error
        if not self._told_of_length:
            self._told_of_length = True
            log.warning(
                "a text of %d characters is too long for %s and is read in parts, as each such "
                "text will be: lower EMBEDDING_MAX_TOKENS",
                *(len(text), self._host.named),
            )
        parts = halves(text)
        return averaged(await self._vectors(parts, kind), [parts])

    async def _ask(self, texts: Sequence[str]) -> Vectors:
        """One request, one attempt."""
        body = {
            "model": await self._name(),
            "input": [text if text.strip() else _EMPTY for text in texts],
            "encoding_format": "base64",  # what the SDKs ask for; some servers send floats anyway
        }
        try:
            async with asyncio.timeout(self._answer_timeout):
                answer = await self._client.post(
                    "/embeddings", cast_to=object, body=body, options=self._host.options
                )
        except TimeoutError:
            raise UpstreamTimeout(
                f"{self._host.named} did not answer within {self._answer_timeout:g} s "
                "(LLM_FIRST_TOKEN_TIMEOUT)."
            ) from None
        except SDK_ERRORS as error:
            # The SDK's text may quote a key, so it is left out of what a log could print.
            raise self._host.failure(error, begun=False) from None
        return self._checked(answer, len(texts))

    async def _name(self) -> str:
        """The model to ask for: EMBEDDING_MODEL, or what the server lists, an encoder if any."""
        if self._model or self._served:
            return self.model_id
        try:
            async with asyncio.timeout(_LOOKUP_TIMEOUT):
                answer = await self._client.get(
                    "models", cast_to=object, options=self._host.options
                )
        except (TimeoutError, *SDK_ERRORS):
            return _UNNAMED_MODEL  # the request itself will say what is wrong
        names = [*_listed(answer), _UNNAMED_MODEL]
        return next((name for name in names if "embed" in name.lower()), names[0])

    def _checked(self, answer: Any, count: int) -> Vectors:
        """Unit vectors in the texts' order; raises UpstreamBroken for anything else."""
        rows = answer.get("data") if isinstance(answer, Mapping) else None
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise self._host.not_openai("sent something that is not a list of vectors")
        if len(rows) != count:
            raise self._broken(f"sent {len(rows)} vectors for {count} texts")
        places = [row.get("index") for row in rows]
        if sorted(p for p in places if isinstance(p, int)) == list(range(count)):
            rows = sorted(rows, key=lambda row: row["index"])
        try:
            vectors = np.stack([_numbers(row.get("embedding")) for row in rows])
        except (ValueError, TypeError, binascii.Error):
            raise self._broken("sent vectors that are not rows of numbers of one length") from None
        if not np.isfinite(vectors).all() or not np.linalg.norm(vectors, axis=1).all():
            raise self._broken("sent a vector that has no direction (NaN, infinite or zero)")
        self._remember(answer.get("model"), vectors.shape[1])
        self._heed(answer.get("max_input_tokens"))
        return unit(vectors)

    def _remember(self, served: Any, dimension: int) -> None:
        """Two models must never share a store: what changes while this runs is refused."""
        if self._dimension is None:
            self._dimension = dimension
            self._served = served if isinstance(served, str) and served else None
        if dimension != self._dimension:
            raise self._broken(
                f"sends vectors of {dimension} numbers now, and {self._dimension} before: another "
                "model runs there"
            )
        if self._served and isinstance(served, str) and served and served != self._served:
            raise self._broken(
                f"answers with the model '{served}' now, and '{self._served}' before"
            )

    def _heed(self, readable: object) -> None:
        """Some servers (llm_offline) say how many tokens their encoder reads: no more is sent."""
        if isinstance(readable, int) and _FEWEST_TOKENS <= readable < self.max_tokens:
            self.max_tokens = readable

    def _broken(self, what: str) -> UpstreamError:
        return UpstreamBroken(
            f"{self._host.named} {what}: set the server right, or restart the backend if the "
            "change was meant."
        )


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Neighbours, bounded in number and in characters."""
    at = size = 0
    for number, text in enumerate(texts):
        full = number - at == _MOST_TEXTS or size + len(text) > _MOST_CHARACTERS
        if full and number > at:
            yield texts[at:number]
            at, size = number, 0
        size += len(text)
    yield texts[at:]


def _is_about_length(error: UpstreamRefused) -> bool:
    known = error.status == 413 or error.code == "context_length_exceeded"
    return known or bool(_ABOUT_LENGTH.search(str(error)))


def _numbers(embedding: object) -> Vectors:
    """One row, from base64 of little-endian float32 or from a list; raises ValueError, TypeError"""
    if isinstance(embedding, str):
        row = np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    else:
        row = np.asarray(embedding, dtype=np.float32)
    if row.ndim != 1 or not row.size:
        raise ValueError("not a row of numbers")
    return row.astype(np.float32, copy=False)


def _listed(answer: object) -> list[str]:
    rows = answer.get("data") if isinstance(answer, Mapping) else None
    found = rows if isinstance(rows, list) else []
    return [str(row["id"]) for row in found if isinstance(row, Mapping) and row.get("id")]
