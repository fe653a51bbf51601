"""The backend's Files and Vector Stores API through the official `openai` SDK.

CommandError
├── ConnectionLost    no answer from the backend
└── Refused           the backend said no; carries its own sentence
    └── NotThere      404
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import openai
from openai.types import VectorStore
from openai.types.vector_stores import VectorStoreFile

from ingest.errors import CommandError

PAGE = 100
"""Most items that OpenAI's API lists at once."""
_HEALTH_SECONDS = 10.0
_TIMEOUT = openai.Timeout(120.0, connect=5.0)
_RETRIES = 3
_LISTINGS = 3

Health = Literal["ready", "starting", "foreign", "silent"]
Status = Literal["in_progress", "completed", "cancelled", "failed"]


class ConnectionLost(CommandError):
    """No answer from the backend."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_status=1)


class Refused(CommandError):
    """The backend refused a request; the sentence is the backend's own."""


class NotThere(Refused):
    """No such file or vector store."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a vector store. `path` and `sha256` are None where no command of ours set them."""

    id: str
    status: Status
    path: str | None
    sha256: str | None
    usage_bytes: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Store:
    """A vector store.

    Attributes:
        busy: Files wait to be indexed, or the indexes are made anew.
        rebuild: While they are: (chunks done, chunks in all).
        problem: Why that has stopped, for now.
    """

    id: str
    name: str
    busy: bool
    rebuild: tuple[int, int] | None = None
    problem: str | None = None


class Client:
    """One backend. Safe to use from several threads; use as a context manager.

    Every method raises ConnectionLost, Refused or NotThere, each with one sentence.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url
        # Set explicitly even when there is no key: else the SDK would send OPENAI_API_KEY here.
        self._sdk = openai.OpenAI(
            base_url=f"{url}/v1",
            api_key=api_key or "none",
            max_retries=_RETRIES,
            http_client=openai.DefaultHttpxClient(timeout=_TIMEOUT, trust_env=not _is_local(url)),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop all connections; requests under way fail."""
        self._sdk.close()

    # Stores

    def store(self, name: str) -> Store:
        """A store by name or id."""
        with self._errors():
            return _store(self._sdk.vector_stores.retrieve(name))

    def create_store(self, name: str) -> Store:
        """A new store."""
        with self._errors():
            return _store(self._sdk.vector_stores.create(name=name))

    def rebuild(self, store: Store) -> None:
        """Ask for new vectors and postings; done when the store is no longer busy."""
        with self._errors():
            path = f"/vector_stores/{store.id}/rebuild"
            self._sdk.post(path, cast_to=VectorStore)

    def stored_files(self, store: Store) -> list[StoredFile]:
        """Every file of a store."""
        for _ in range(_LISTINGS):
            try:
                with self._errors():
                    pages = self._sdk.vector_stores.files.list(store.id, limit=PAGE, order="asc")
                    return [_stored_file(item) for item in pages]
            except NotThere:
                raise
            except Refused as error:
                # The file that a page ended with was replaced meanwhile: the next page's cursor
                # is unknown, and the list must be read anew.
                refusal = error
        raise refusal

    def stores(self) -> list[Store]:
        """All stores, oldest first."""
        with self._errors():
            pages = self._sdk.vector_stores.list(limit=PAGE, order="asc")
            return [_store(item) for item in pages]

    # Files

    def filenames(self) -> dict[str, str]:
        """{file id: name it was uploaded under} of all files."""
        with self._errors():
            return {item.id: item.filename for item in self._sdk.files.list(limit=10_000)}

    def upload(self, path: Path, name: str) -> str:
        """Send a file's bytes from disk; returns its id. Raises OSError if it cannot be opened."""
        with path.open("rb") as file, self._errors():
            return self._sdk.files.create(file=(name, file), purpose="assistants").id

    def attach(self, store: Store, file_id: str, attributes: Mapping[str, str]) -> None:
        """Put a file into a store, or try a failed one again."""
        with self._errors():
            self._sdk.vector_stores.files.create(
                vector_store_id=store.id, file_id=file_id, attributes=dict(attributes)
            )

    def stored_file(self, store: Store, file_id: str) -> StoredFile:
        """One file of a store, as it is now."""
        with self._errors():
            found = self._sdk.vector_stores.files.retrieve(file_id, vector_store_id=store.id)
            return _stored_file(found)

    def set_attributes(self, store: Store, file_id: str, attributes: Mapping[str, str]) -> None:
        """Replace a stored file's attributes."""
        with self._errors():
            self._sdk.vector_stores.files.update(
                file_id, vector_store_id=store.id, attributes=dict(attributes)
            )

    def delete(self, file_id: str) -> None:
        """Delete a file everywhere; one that is gone already is fine."""
        try:
            with self._errors():
                self._sdk.files.delete(file_id)
        except NotThere:
            return

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except openai.APIConnectionError as error:
            raise ConnectionLost(f"The backend at {self.url} does not answer any more") from error
        except openai.AuthenticationError as error:
            raise Refused(
                f"The backend at {self.url} refused the key: give one of its API_KEYS with "
                "--api-key or RAG_BACKEND_API_KEY"
            ) from error
        except openai.NotFoundError as error:
            raise NotThere(_sentence(error)) from error
        except openai.APIStatusError as error:
            raise Refused(_sentence(error)) from error
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            raise Refused(
                f"What came from {self.url} is not an answer of this backend: check the URL"
            ) from error


def health(url: str) -> Health:
    """What answers at a URL: our backend, another program, or nothing. Never raises."""
    # The standard library and not the SDK: only it tells "no connection" from "no HTTP".
    proxies = urllib.request.ProxyHandler({} if _is_local(url) else None)
    opener = urllib.request.build_opener(proxies)
    try:
        with opener.open(f"{url}/health", timeout=_HEALTH_SECONDS) as response:
            return _judged(response.read())
    except HTTPError as error:
        with error:
            # Other versions say in this way that they are not ready.
            ours = error.code == 503 and _judged(error.read()) != "foreign"
            return "starting" if ours else "foreign"
    except URLError:
        return "silent"
    except (OSError, http.client.HTTPException, ValueError):
        return "foreign"


def _judged(body: bytes) -> Health:
    try:
        answer = json.loads(body)
    except ValueError:
        return "foreign"
    if not isinstance(answer, dict) or answer.get("service") != "rag-backend":
        return "foreign"
    return "starting" if answer.get("status") == "starting" else "ready"


def _is_local(url: str) -> bool:
    """Whether the host is this machine or on this network: no proxy may come between."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal"))


def _sentence(error: openai.APIStatusError) -> str:
    """The backend's own sentence; without one, the status."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    if isinstance(message, str) and message.strip():
        return " ".join(message.split()).removesuffix(".")
    return f"The backend answered with HTTP {error.status_code}"


def _store(found: VectorStore) -> Store:
    rebuild = (found.model_extra or {}).get("rebuild")
    progress = rebuild if isinstance(rebuild, dict) else None
    return Store(
        found.id,
        found.name,
        found.status != "completed",
        (int(progress["done"]), int(progress["total"])) if progress else None,
        progress.get("error") if progress else None,
    )


def _stored_file(found: VectorStoreFile) -> StoredFile:
    attributes = found.attributes or {}
    path, sha256 = attributes.get("path"), attributes.get("sha256")
    return StoredFile(
        id=found.id,
        status=found.status,
        path=path if isinstance(path, str) else None,
        sha256=sha256 if isinstance(sha256, str) else None,
        usage_bytes=found.usage_bytes,
        error=found.last_error.message if found.last_error else None,
    )
