"""A Chroma, embedded or a server: collections, failures in our words, opening it anew."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import urlsplit

import chromadb
import httpx
from chromadb.api.client import Client
from chromadb.config import DEFAULT_DATABASE
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError, InternalError, NotFoundError

from rag_backend.errors import StorageAway, StorageBroken, StorageFull, StorageLost
from rag_backend.knowledge.chroma_folder import ChromaFolder
from rag_backend.knowledge.suspects import Suspects

T = TypeVar("T")
Collection = chromadb.Collection

log = logging.getLogger(__name__)

_SERVER_TIMEOUT = httpx.Timeout(60, connect=5)
# Seconds before a call that failed is made again: longer together than a collection takes to go
# that another backend drops. One that is dropped here is waited for.
_ASKED_AGAIN = (0.0, 0.01, 0.05, 0.1)
_LOST = (
    "The vectors are damaged, and made anew from the catalog now: try again in a moment; if it "
    "lasts, see the backend's log."
)


class Chroma:
    """A client that is shared by several threads, and can be opened anew under them."""

    def __init__(
        self,
        client: Client,
        where: str,
        remedy: str,
        folder: ChromaFolder | None = None,
        again: Callable[[], Client] | None = None,
    ) -> None:
        """`folder` is the embedded Chroma's, and `again` opens it."""
        self.client = client
        self.suspects = Suspects()
        """Collections that were not found, or were made anew."""
        self._folder = folder
        self._again = again
        self._in_use = 0
        self._closed = False
        self._drops = 0
        self._dropping: dict[int, str] = {}
        """{thread: the collection that it takes away}."""
        self._users = threading.Condition()
        self._damaged = self._renewed = False
        self._where = where
        self._remedy = remedy
        self._known: dict[str, Collection] = {}

    def created(self, collection: str) -> Collection:
        with suppress(NotFoundError):
            return self.existing(collection)
        try:
            self.suspects.add(collection, certain=collection in self._known)
            return self.client.get_or_create_collection(
                collection,
                embedding_function=None,
                configuration={"hnsw": {"space": "cosine"}},
            )
        except ChromaError:  # another backend has created it at the same moment
            with suppress(ChromaError):
                return self.existing(collection)
            raise

    def existing(self, collection: str) -> Collection:
        found = self.client.get_collection(collection, embedding_function=None)
        self._known[collection] = found
        return found

    def on(self, collection: str, action: Callable[[Collection], T]) -> T:
        """Read from a collection without asking for it first, once it is known."""
        known = self._known.get(collection)
        if known is not None:
            try:
                return action(known)
            except NotFoundError:  # dropped, and perhaps made again, by another backend
                self.suspects.add(collection)
                self._known.pop(collection, None)
        return action(self.existing(collection))

    def knows(self, collection: str) -> bool:
        """Whether it was there."""
        return collection in self._known

    def guard(
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
            if not is_chromas(error):
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
        pauses = iter(_ASKED_AGAIN)
        while True:
            drops = self._drops
            try:
                return action()
            except InternalError as error:
                if _is_full(error):
                    raise
                if not self._was_dropped(collection, drops):
                    pause = next(pauses, None)
                    if pause is None:
                        raise
                    again = "Chroma (%s) failed, and is asked again: %s"
                    log.info(again, self._where, _reason(error))
                    time.sleep(pause)
            if not creates:
                with suppress(InternalError):  # it may be dropped at this moment
                    self.client.get_collection(collection, embedding_function=None)

    def _was_dropped(self, collection: str, drops: int) -> bool:
        """Whether it is taken away here, or something was since there were so many `drops`.

        Waits until this collection is not any more, for as long as a busy machine takes.
        """
        with self._users:
            if threading.get_ident() in self._dropping:
                return False  # its own doing; two of them would wait for each other
            going = collection in self._dropping.values()
            self._users.wait_for(lambda: collection not in self._dropping.values())
            return going or self._drops != drops

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

    def drop(self, collection: str) -> None:
        """Delete the collection, if it exists."""
        self._known.pop(collection, None)
        with self._users:
            self._dropping[threading.get_ident()] = collection
            self._drops += 1
        try:
            self.guard(lambda: self.client.delete_collection(collection), lambda: None, collection)
        finally:
            with self._users:
                # Once more: who failed meanwhile may look only now.
                self._drops += 1
                del self._dropping[threading.get_ident()]
                self._users.notify_all()
        if self._folder is not None:
            self._folder.remove_deleted()

    def heartbeat(self) -> None:
        """Raises StorageBroken when Chroma does not answer."""
        self.guard(self.client.heartbeat)

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
            self.client.close()
        try:
            self.client = self._again()
        except StorageBroken as error:
            if not self._folder.path.is_dir():
                raise
            log.warning("%s It is set aside as %s.", error, self._folder.set_aside())
            self._renewed = True
            self.client = self._again()
        self._folder.opened()
        self._known.clear()
        renewed = self._renewed
        self._damaged = self._closed = self._renewed = False
        return renewed

    def close(self) -> None:
        """Let go of files or connections."""
        if self._closed:
            return
        self.client.close()
        for session in _sessions(self.client):
            session.close()  # Chroma 1.5 leaves its connections open


def _sessions(client: Client) -> list[httpx.Client]:
    """The HTTP connections of a client of a server; none of an embedded one."""
    holders = (client._server, getattr(client._admin_client, "_server", None))
    found = (getattr(holder, "_session", None) for holder in holders)
    return [session for session in found if isinstance(session, httpx.Client)]


def is_chromas(error: Exception) -> bool:
    """Its HTTP client raises a bare Exception for what a server calls an internal error."""
    known = (ChromaError, httpx.HTTPError, OSError, ValueError)
    return isinstance(error, known) or type(error) is Exception


def _is_full(error: Exception) -> bool:
    return "disk is full" in str(error) or getattr(error, "errno", None) == errno.ENOSPC


def _reason(error: Exception) -> str:
    return str(error).rstrip(". ") or type(error).__name__


def open_embedded(directory: Path) -> Chroma:
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

    index = Chroma(client(), f"embedded in {directory}", remedy, folder, client)
    folder.opened()
    return index


def open_server(url: str, database: str = DEFAULT_DATABASE) -> Chroma:
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
    return Chroma(cast(Client, client), f"CHROMA_URL={url}", remedy)
