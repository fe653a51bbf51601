"""Vectors in Chroma: one collection a store generation, ids are chunk ids, no texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import chromadb
import numpy as np
from chromadb.api import ClientAPI
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError, NotFoundError

from rag_backend.errors import StorageBroken, StorageFull
from rag_backend.knowledge.embedding import Vectors

T = TypeVar("T")


class VectorIndex:
    """Cosine neighbours of a query vector. Synchronous; safe to call from several threads."""

    def __init__(self, client: ClientAPI, where: str) -> None:
        self._client = client
        self._where = where
        self._batch = min(client.get_max_batch_size(), 2000)

    def add(
        self, collection: str, ids: Sequence[str], file_ids: Sequence[str], vectors: Vectors
    ) -> None:
        """Insert or overwrite. `vectors` is float32 of shape (len(ids), dimension)."""

        def write() -> None:
            target = self._client.get_or_create_collection(
                collection,
                embedding_function=None,
                configuration={"hnsw": {"space": "cosine"}},
            )
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
            where: Any = {"file_id": {"$in": list(file_ids)}}
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
            where: Any = None if file_ids is None else {"file_id": {"$in": list(file_ids)}}
            found = self._existing(collection).query(
                query_embeddings=np.asarray([vector], dtype=np.float32),
                n_results=k,
                where=where,
                include=["distances"],
            )
            distances = found["distances"] or [[]]
            return [
                (chunk, 1.0 - float(distance))
                for chunk, distance in zip(found["ids"][0], distances[0], strict=True)
            ]

        return self._guard(query, missing=list[tuple[str, float]])

    def count(self, collection: str) -> int:
        """Number of vectors; 0 for a collection that does not exist."""
        return self._guard(lambda: self._existing(collection).count(), missing=int)

    def drop(self, collection: str) -> None:
        """Delete the collection, if it exists."""
        self._guard(lambda: self._client.delete_collection(collection), missing=lambda: None)

    def heartbeat(self) -> None:
        """Raises StorageBroken when Chroma does not answer."""
        self._guard(self._client.heartbeat)

    def _existing(self, collection: str) -> chromadb.Collection:
        return self._client.get_collection(collection, embedding_function=None)

    def _guard(self, action: Callable[[], T], missing: Callable[[], T] | None = None) -> T:
        try:
            return action()
        except NotFoundError as error:
            if missing is not None:
                return missing()
            raise StorageBroken(f"Chroma ({self._where}) lost a collection: {error}.") from error
        except (ChromaError, OSError, ValueError) as error:
            if "full" in str(error) or getattr(error, "errno", None) == 28:
                raise StorageFull(
                    "The disk that holds DATA_DIR is full: free some space, then try again."
                ) from error
            raise StorageBroken(
                f"Chroma ({self._where}) cannot be used: {error}. "
                "If its directory is damaged, delete it and run `python -m ingest rebuild`."
            ) from error


def open_embedded(directory: Path) -> VectorIndex:
    """Chroma inside this process, its files in `directory` (one owner only)."""
    settings = ChromaSettings(anonymized_telemetry=False)
    try:
        return VectorIndex(chromadb.PersistentClient(str(directory), settings), str(directory))
    except (ChromaError, OSError, ValueError) as error:
        raise StorageBroken(
            f"Chroma in {directory} cannot be opened: {error}. If the directory is damaged, "
            "delete it and run `python -m ingest rebuild`."
        ) from error


def open_server(url: str) -> VectorIndex:
    """A Chroma server at `url`; raises StorageBroken when it does not answer."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 8000)
    settings = ChromaSettings(anonymized_telemetry=False)
    try:
        client = chromadb.HttpClient(parts.hostname or "", port, ssl=secure, settings=settings)
    except (ChromaError, OSError, ValueError) as error:
        raise StorageBroken(
            f"No Chroma server answers at CHROMA_URL={url}. Start it (`chroma run`), correct the "
            "address, or leave CHROMA_URL empty to use the embedded one."
        ) from error
    return VectorIndex(client, url)
