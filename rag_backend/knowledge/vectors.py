"""Vectors in Chroma: one collection a store generation, ids are chunk ids, no texts."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from heapq import nlargest
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import chromadb
import httpx
import numpy as np
from chromadb.api.client import Client
from chromadb.config import DEFAULT_DATABASE
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError, NotFoundError

from rag_backend.errors import StorageAway, StorageBroken, StorageFull
from rag_backend.knowledge.embedding import Vectors

T = TypeVar("T")

_SERVER_TIMEOUT = httpx.Timeout(60, connect=5)
_FILES_AT_ONCE = 5000
"""File ids in one condition; Chroma puts them into SQLite, which binds at most 32,766."""


class VectorIndex:
    """Cosine neighbours of a query vector. Synchronous; safe to call from several threads."""

    def __init__(self, client: Client, where: str, remedy: str) -> None:
        self._client = client
        self._where = where
        self._remedy = remedy
        self._batch = min(client.get_max_batch_size(), 2000)

    def add(
        self, collection: str, ids: Sequence[str], file_ids: Sequence[str], vectors: Vectors
    ) -> None:
        """Insert or overwrite. `vectors` is float32 of shape (len(ids), dimension)."""

        def write() -> None:
            target = self._created(collection)
            for at in range(0, len(ids), self._batch):
                part = slice(at, at + self._batch)
                metadatas: list[Any] = [{"file_id": file_id} for file_id in file_ids[part]]
                target.upsert(
                    ids=list(ids[part]),
                    embeddings=np.asarray(vectors[part], dtype=np.float32),
                    metadatas=metadatas,
                )

        self._guard(write)

    def delete_files(self, collection: str, file_ids: Sequence[str]) -> None:
        """Remove every vector of the files; a collection that does not exist holds none."""

        def remove() -> None:
            for where in _conditions(file_ids):
                self._existing(collection).delete(where=where)

        self._guard(remove, missing=lambda: None)

    def search(
        self, collection: str, vector: Vectors, k: int, file_ids: Sequence[str] | None = None
    ) -> list[tuple[str, float]]:
        """(chunk id, cosine in -1..1) of the k nearest, nearest first.

        Args:
            vector: One query, float32 of shape (dimension,).
            file_ids: Only chunks of these files; None for all.
        """

        def query() -> list[tuple[str, float]]:
            source = self._existing(collection)
            found: list[tuple[str, float]] = []
            for where in [None] if file_ids is None else _conditions(file_ids):
                part = source.query(
                    query_embeddings=np.asarray([vector], dtype=np.float32),
                    n_results=k,
                    where=where,
                    include=["distances"],
                )
                distances = (part["distances"] or [[]])[0]
                cosines = (1.0 - float(distance) for distance in distances)
                found += zip(part["ids"][0], cosines, strict=True)
            return nlargest(k, found, key=lambda pair: pair[1])

        return self._guard(query, missing=list[tuple[str, float]])

    def count(self, collection: str) -> int:
        """Number of vectors; 0 for a collection that does not exist."""
        return self._guard(lambda: self._existing(collection).count(), missing=int)

    def ids(self, collection: str) -> set[str]:
        """Every chunk id; empty for a collection that does not exist."""

        def read() -> set[str]:
            source = self._existing(collection)
            found: set[str] = set()
            for at in range(0, source.count(), self._batch):
                found.update(source.get(limit=self._batch, offset=at, include=[])["ids"])
            return found

        return self._guard(read, missing=set[str])

    def drop(self, collection: str) -> None:
        """Delete the collection, if it exists."""
        self._guard(lambda: self._client.delete_collection(collection), missing=lambda: None)

    def heartbeat(self) -> None:
        """Raises StorageBroken when Chroma does not answer."""
        self._guard(self._client.heartbeat)

    def close(self) -> None:
        """Let go of files or connections."""
        self._client.close()
        for session in _sessions(self._client):
            session.close()  # Chroma 1.5 leaves its connections open

    def _created(self, collection: str) -> chromadb.Collection:
        with suppress(NotFoundError):
            return self._existing(collection)
        try:
            return self._client.get_or_create_collection(
                collection,
                embedding_function=None,
                configuration={"hnsw": {"space": "cosine"}},
            )
        except ChromaError:  # another backend has created it at the same moment
            with suppress(ChromaError):
                return self._existing(collection)
            raise

    def _existing(self, collection: str) -> chromadb.Collection:
        return self._client.get_collection(collection, embedding_function=None)

    def _guard(self, action: Callable[[], T], missing: Callable[[], T] | None = None) -> T:
        try:
            return action()
        except NotFoundError as error:
            if missing is not None:
                return missing()
            raise StorageBroken(f"Chroma ({self._where}) lost a collection: {error}.") from error
        except Exception as error:
            if not _is_chromas(error):
                raise
            if "disk is full" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
                raise StorageFull(
                    "The disk that holds DATA_DIR is full: free some space, then try again."
                ) from error
            if isinstance(error, httpx.TransportError):
                raise StorageAway(
                    f"Chroma ({self._where}) does not answer now: try again in a moment; if it "
                    f"lasts: {self._remedy}"
                ) from error
            raise StorageBroken(
                f"Chroma ({self._where}) cannot be used: {_reason(error)}. {self._remedy}"
            ) from error


def _sessions(client: Client) -> list[httpx.Client]:
    """The HTTP connections of a client of a server; none of an embedded one."""
    holders = (client._server, getattr(client._admin_client, "_server", None))
    found = (getattr(holder, "_session", None) for holder in holders)
    return [session for session in found if isinstance(session, httpx.Client)]


def _conditions(file_ids: Sequence[str]) -> Iterator[Any]:
    """`where` clauses that together cover the files; one that matches nothing for no file."""
    for at in range(0, max(1, len(file_ids)), _FILES_AT_ONCE):
        part = list(file_ids[at : at + _FILES_AT_ONCE])
        yield {"file_id": {"$in": part or [""]}}


def _is_chromas(error: Exception) -> bool:
    """Its HTTP client raises a bare Exception for what a server calls an internal error."""
    known = (ChromaError, httpx.HTTPError, OSError, ValueError)
    return isinstance(error, known) or type(error) is Exception


def _reason(error: Exception) -> str:
    return str(error).rstrip(". ") or type(error).__name__


def open_embedded(directory: Path) -> VectorIndex:
    """Chroma inside this process, its files in `directory` (one owner only)."""
    settings = ChromaSettings(anonymized_telemetry=False)
    remedy = "If the directory is damaged, delete it and run `python -m ingest rebuild`."
    try:
        client = chromadb.PersistentClient(str(directory), settings)
    except (ChromaError, OSError, ValueError) as error:
        raise StorageBroken(
            f"Chroma in {directory} cannot be opened: {_reason(error)}. {remedy}"
        ) from error
    return VectorIndex(cast(Client, client), f"embedded in {directory}", remedy)


def open_server(url: str, database: str = DEFAULT_DATABASE) -> VectorIndex:
    """A Chroma server at `url`; raises StorageBroken when it does not answer."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 8000)
    settings = ChromaSettings(anonymized_telemetry=False)
    remedy = (
        "Start it (`chroma run`), correct CHROMA_URL, or leave it empty to use the embedded one."
    )
    try:
        client = chromadb.HttpClient(
            parts.hostname or "", port, ssl=secure, settings=settings, database=database
        )
    except (ChromaError, httpx.HTTPError, OSError, ValueError) as error:
        raise StorageBroken(f"No Chroma server answers at CHROMA_URL={url}. {remedy}") from error
    for session in _sessions(cast(Client, client)):
        session.timeout = _SERVER_TIMEOUT  # Chroma sets none: a server that hangs would hang us
    return VectorIndex(cast(Client, client), f"CHROMA_URL={url}", remedy)
