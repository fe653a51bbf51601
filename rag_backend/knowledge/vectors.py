"""Vectors in Chroma: one collection a store generation, ids are chunk ids, no texts."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from heapq import nlargest
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import chromadb
import httpx
import numpy as np
from chromadb.api.client import Client
from chromadb.config import DEFAULT_DATABASE
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError, InternalError, NotFoundError

from rag_backend.errors import StorageAway, StorageBroken, StorageFull, StorageLost
from rag_backend.knowledge.chroma_folder import ChromaFolder
from rag_backend.knowledge.embedding import Vectors
from rag_backend.knowledge.filters import Selection
from rag_backend.knowledge.kept_vectors import FileVectors, KeptVectors, nearest
from rag_backend.knowledge.suspects import Suspects

T = TypeVar("T")

log = logging.getLogger(__name__)

_SERVER_TIMEOUT = httpx.Timeout(60, connect=5)
_FILES_AT_ONCE = 5000
"""File ids in one condition; Chroma puts them into SQLite, which binds at most 32,766."""
_LOOKED_AT = 400
"""Results asked of Chroma at least: its graph is searched the more thoroughly the more are wanted.
(docs/ARCHITECTURE.md, "The read path", has the recall of 100 and of 400.)
(Its own setting for this, `ef_search`, holds for new collections only.)"""
_LOOSE = 0.08
"""A filter that lets through this share of the files or more is applied to the nearest of all
chunks; below, looking at enough of them costs more than Chroma's own search among some."""
_FEW = 5000
"""Chunks that are compared one by one: 2 ms, against 20 for Chroma's search among so few."""
_READ_AT_ONCE = 1000
"""Vectors that one search reads from Chroma, which takes 25 ms."""


# Seconds before a call that failed is made again: longer together than a collection takes to go.
_ASKED_AGAIN = (0.0, 0.01, 0.05, 0.1)
_LOST = (
    "The vectors are damaged, and made anew from the catalog now: try again in a moment; if it "
    "lasts, see the backend's log."
)


class VectorIndex:
    """Cosine neighbours of a query vector. Synchronous; safe to call from several threads."""

    def __init__(
        self,
        client: Client,
        where: str,
        remedy: str,
        folder: ChromaFolder | None = None,
        again: Callable[[], Client] | None = None,
    ) -> None:
        """`folder` is the embedded Chroma's, and `again` opens it."""
        self._client = client
        self._folder = folder
        self._again = again
        self._in_use = 0
        self._closed = False
        self._users = threading.Condition()
        self._damaged = self._renewed = False
        self.suspects = Suspects()
        self._where = where
        self._remedy = remedy
        self._batch = min(client.get_max_batch_size(), 2000)
        self._known: dict[str, chromadb.Collection] = {}
        self._kept = KeptVectors()

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

        try:
            self._guard(write, of=collection)
        finally:
            self._kept.forget(collection, set(file_ids))

    def delete_files(self, collection: str, file_ids: Sequence[str]) -> None:
        """Remove every vector of the files; a collection that does not exist holds none."""

        def remove() -> None:
            for where in _conditions(file_ids):
                self._existing(collection).delete(where=where)

        try:
            self._guard(remove, lambda: None, collection)
        finally:
            self._kept.forget(collection, file_ids)

    def search(
        self, collection: str, vector: Vectors, k: int, allowed: Selection | None = None
    ) -> list[tuple[str, float]]:
        """(chunk id, cosine in -1..1) of the k nearest, nearest first.

        Args:
            vector: One query, float32 of shape (dimension,).
            allowed: Only chunks of these files; None for all.
        """

        def query() -> list[tuple[str, float]]:
            if allowed is None:
                return self._nearest(collection, vector, k)
            if allowed.share >= _LOOSE:
                enough = allowed.enough(k)
                all_found = self._nearest(collection, vector, enough)
                found = [pair for pair in all_found if pair[0] in allowed][:k]
                if len(found) == k or len(all_found) < enough:
                    return found
            return self._among(collection, vector, k, allowed)

        def missing() -> list[tuple[str, float]]:
            # Perhaps nothing was ever put into the store.
            self.suspects.add(collection, certain=collection in self._known)
            return []

        return self._guard(query, missing, collection)

    def _nearest(
        self, collection: str, vector: Vectors, k: int, **among: Any
    ) -> list[tuple[str, float]]:
        """Chroma's own search, among all chunks or those that its `ids` or `where` name."""

        def query(source: chromadb.Collection) -> list[tuple[str, float]]:
            found = source.query(
                query_embeddings=np.asarray([vector], dtype=np.float32),
                n_results=max(k, _LOOKED_AT),
                include=["distances"],
                **among,
            )
            distances = (found["distances"] or [[]])[0][:k]
            ids = found["ids"][0][:k]
            return [(i, 1.0 - float(d)) for i, d in zip(ids, distances, strict=True)]

        return self._on(collection, query)

    def _among(
        self, collection: str, vector: Vectors, k: int, allowed: Selection
    ) -> list[tuple[str, float]]:
        """The nearest of the allowed chunks alone: exact while they are few."""
        if not allowed.size:
            return []
        if allowed.size <= _FEW:
            files = self._few(collection, allowed)
            if files is not None:
                return nearest(files, vector, k)
        try:
            return self._nearest(collection, vector, k, ids=allowed.chunks())
        except Exception as error:
            if not _is_chromas(error):
                raise
        # Chroma fails when one of the ids is gone: deleted a moment ago, or lost. To name the files
        # instead takes five times as long, and finds what is there.
        wheres = _conditions(list(allowed.versions))
        parts = [self._nearest(collection, vector, k, where=where) for where in wheres]
        return nlargest(k, chain.from_iterable(parts), key=lambda pair: pair[1])

    def _few(self, collection: str, allowed: Selection) -> list[FileVectors] | None:
        """The vectors of all allowed files; None while too many of them are not in memory yet.

        Of those, some are read each time: the next search with such a filter finds more of them.
        """
        epoch = self._kept.epoch
        kept = self._kept.get(collection, allowed.versions)
        missing = [file_id for file_id in allowed.counts if file_id not in kept]
        read = self._read(collection, allowed, missing)
        self._kept.put(collection, read, epoch)
        return None if len(read) < len(missing) else [*kept.values(), *read.values()]

    def _read(
        self, collection: str, allowed: Selection, file_ids: Sequence[str]
    ) -> dict[str, FileVectors]:
        """The first of the files' vectors, about `_READ_AT_ONCE` of them."""
        wanted: list[str] = []
        room = _READ_AT_ONCE
        for file_id in file_ids:
            if room <= 0:
                break
            wanted.append(file_id)
            room -= allowed.counts[file_id]
        ids = allowed.chunks(wanted)
        by_id: dict[str, Any] = {}

        def read(source: chromadb.Collection) -> None:
            for at in range(0, len(ids), self._batch):
                rows = source.get(ids=ids[at : at + self._batch], include=["embeddings"])
                by_id.update(zip(rows["ids"], cast(Any, rows["embeddings"]), strict=True))

        self._on(collection, read)
        return {
            file_id: _file_vectors(allowed.versions[file_id], allowed.chunks([file_id]), by_id)
            for file_id in wanted
        }

    def count(self, collection: str) -> int:
        """Number of vectors; 0 for a collection that does not exist."""
        return self._guard(lambda: self._existing(collection).count(), int, collection)

    def ids(self, collection: str) -> set[str]:
        """Every chunk id; empty for a collection that does not exist."""

        def read() -> set[str]:
            source = self._existing(collection)
            found: set[str] = set()
            for at in range(0, source.count(), self._batch):
                found.update(source.get(limit=self._batch, offset=at, include=[])["ids"])
            return found

        return self._guard(read, set[str], collection)

    def get(self, collection: str, ids: Sequence[str]) -> dict[str, Vectors]:
        """{chunk id: its vector} of those that are there."""

        def read() -> dict[str, Vectors]:
            found = self._existing(collection).get(ids=list(ids), include=["embeddings"])
            rows = np.asarray(found["embeddings"], dtype=np.float32)
            return dict(zip(found["ids"], rows, strict=True))

        return self._guard(read, dict[str, Vectors], collection)

    def drop(self, collection: str) -> None:
        """Delete the collection, if it exists."""
        self._known.pop(collection, None)
        try:
            self._guard(
                lambda: self._client.delete_collection(collection), lambda: None, collection
            )
        finally:
            self._kept.forget(collection)
        if self._folder is not None:
            self._folder.remove_deleted()

    def heartbeat(self) -> None:
        """Raises StorageBroken when Chroma does not answer."""
        self._guard(self._client.heartbeat)

    @property
    def damaged(self) -> bool:
        """Whether the embedded Chroma must be opened anew: its files are gone, or it failed."""
        if self._folder is not None and self._folder.replaced:
            self._damaged = True
        return self._damaged

    def reopen(self) -> bool:
        """Open the embedded Chroma anew; waits for who uses it.

        What cannot be opened is set aside. Raises StorageBroken; meanwhile everything else here
        raises StorageLost.

        Returns:
            Whether its files are others now: nothing is left of what was written.
        """
        if self._folder is None or self._again is None:
            return False
        self._renewed |= self._folder.replaced
        with self._users:
            closed, self._closed = self._closed, True
            self._users.wait_for(lambda: not self._in_use)
        if not closed:
            self._client.close()
        try:
            self._client = self._again()
        except StorageBroken as error:
            if not self._folder.path.is_dir():
                raise
            log.warning("%s It is set aside as %s.", error, self._folder.set_aside())
            self._renewed = True
            self._client = self._again()
        self._folder.opened()
        self._known.clear()
        self._kept.clear()
        renewed = self._renewed
        self._damaged = self._closed = self._renewed = False
        return renewed

    def close(self) -> None:
        """Let go of files or connections."""
        if self._closed:
            return
        self._client.close()
        for session in _sessions(self._client):
            session.close()  # Chroma 1.5 leaves its connections open

    def _created(self, collection: str) -> chromadb.Collection:
        with suppress(NotFoundError):
            return self._existing(collection)
        try:
            self.suspects.add(collection, certain=collection in self._known)
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
        found = self._client.get_collection(collection, embedding_function=None)
        self._known[collection] = found
        return found

    def _on(self, collection: str, action: Callable[[chromadb.Collection], T]) -> T:
        """Read from a collection without asking for it first, once it is known."""
        known = self._known.get(collection)
        if known is not None:
            try:
                return action(known)
            except NotFoundError:  # dropped, and perhaps made again, by another backend
                self.suspects.add(collection)
                self._known.pop(collection, None)
        return action(self._existing(collection))

    def _guard(
        self,
        action: Callable[[], T],
        missing: Callable[[], T] | None = None,
        of: str | None = None,
    ) -> T:
        """What `action` returns, its errors in our words.

        Args:
            action: May be done several times.
            missing: Instead of it, when the collection does not exist.
            of: The collection that it is about.
        """
        try:
            with self._using():
                return action() if of is None else self._settled(action, of, missing is None)
        except NotFoundError as error:
            if missing is not None:
                return missing()
            raise StorageBroken(f"Chroma ({self._where}) lost a collection: {error}.") from error
        except Exception as error:
            if not _is_chromas(error):
                raise
            if _is_full(error):
                raise StorageFull(
                    "The disk that holds DATA_DIR is full: free some space, then try again."
                ) from error
            if isinstance(error, httpx.TransportError):
                raise StorageAway(
                    f"Chroma ({self._where}) does not answer now: try again in a moment; if it "
                    f"lasts: {self._remedy}"
                ) from error
            if self._folder is not None and isinstance(error, InternalError):
                self._damaged = True
                log.error("Chroma (%s) failed: %s", self._where, _reason(error))
                raise StorageLost(_LOST) from error
            raise StorageBroken(
                f"Chroma ({self._where}) cannot be used: {_reason(error)}. {self._remedy}"
            ) from error

    def _settled(self, action: Callable[[], T], collection: str, creates: bool) -> T:
        """Raises NotFoundError for a collection that is dropped meanwhile, unless it `creates` it.

        Chroma 1.5 says to whom it takes one away that it has failed, as it does of damage. It is
        asked again: what lasts is damage.
        """
        for pause in _ASKED_AGAIN:
            try:
                return action()
            except InternalError as error:
                if _is_full(error):
                    raise
                log.info("Chroma (%s) failed, and is asked again: %s", self._where, _reason(error))
            time.sleep(pause)
            if not creates:
                with suppress(InternalError):  # it may be dropped at this moment
                    self._client.get_collection(collection, embedding_function=None)
        return action()

    @contextmanager
    def _using(self) -> Iterator[None]:
        """The client stays open meanwhile."""
        with self._users:
            if self._closed:
                raise StorageLost(_LOST)
            self._in_use += 1
        try:
            yield
        finally:
            with self._users:
                self._in_use -= 1
                self._users.notify_all()


def _file_vectors(version: str, ids: Sequence[str], by_id: Mapping[str, Any]) -> FileVectors:
    """A file's vectors as read: without those that Chroma has lost."""
    present = [item for item in ids if item in by_id]
    if not present:
        return FileVectors(version, (), np.empty((0, 0), dtype=np.float32))
    rows = np.asarray([by_id[item] for item in present], dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return FileVectors(version, present, rows / np.maximum(lengths, 1e-12))


def _sessions(client: Client) -> list[httpx.Client]:
    """The HTTP connections of a client of a server; none of an embedded one."""
    holders = (client._server, getattr(client._admin_client, "_server", None))
    found = (getattr(holder, "_session", None) for holder in holders)
    return [session for session in found if isinstance(session, httpx.Client)]


def _conditions(file_ids: Sequence[str]) -> Iterator[Any]:
    """`where` clauses that together cover the files."""
    for at in range(0, len(file_ids), _FILES_AT_ONCE):
        yield {"file_id": {"$in": list(file_ids[at : at + _FILES_AT_ONCE])}}


def _is_chromas(error: Exception) -> bool:
    """Its HTTP client raises a bare Exception for what a server calls an internal error."""
    known = (ChromaError, httpx.HTTPError, OSError, ValueError)
    return isinstance(error, known) or type(error) is Exception


def _is_full(error: Exception) -> bool:
    return "disk is full" in str(error) or getattr(error, "errno", None) == errno.ENOSPC


def _reason(error: Exception) -> str:
    return str(error).rstrip(". ") or type(error).__name__


def open_embedded(directory: Path) -> VectorIndex:
    """Chroma inside this process, its files in `directory` (one owner only)."""
    settings = ChromaSettings(anonymized_telemetry=False)
    remedy = (
        "If the directory is damaged, delete it and start the backend again, which makes the "
        "vectors anew from the catalog; so does `python -m ingest rebuild --all`."
    )
    folder = ChromaFolder(directory)

    def client() -> Client:
        try:
            return cast(Client, chromadb.PersistentClient(str(directory), settings))
        except (ChromaError, OSError, ValueError) as error:
            raise StorageBroken(
                f"Chroma in {directory} cannot be opened: {_reason(error)}. {remedy}"
            ) from error

    index = VectorIndex(client(), f"embedded in {directory}", remedy, folder, client)
    folder.opened()
    return index


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
