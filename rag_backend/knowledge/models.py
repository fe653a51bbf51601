"""What the catalog hands out: OpenAI's nouns as plain records."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

from ingest.document import with_headings

FileStatus = Literal["in_progress", "completed", "cancelled", "failed"]
Completion = Literal["completed", "gone", "stale"]
"""How a job ended, see `Catalog.complete_files`."""
Attributes = Mapping[str, str | float | bool]
T = TypeVar("T")

SECONDS_A_DAY = 86_400


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Uploaded bytes. Times are Unix seconds."""

    id: str
    filename: str
    bytes: int
    sha256: str
    purpose: str
    created_at: int
    expires_at: int | None = None
    uploaded_by: str | None = None


@dataclass(frozen=True, slots=True)
class Reach:
    """What of the catalog somebody may see: some stores, what is in them, and their own uploads.

    Attributes:
        stores: Names and ids of the stores; None: every store (but not files that are in none).
        uploader: Whose uploads, as `FileRecord.uploaded_by`.
    """

    stores: frozenset[str] | None
    uploader: str


@dataclass(frozen=True, slots=True)
class Store:
    """A vector store. `collection` names its Chroma collection and its tantivy directory."""

    id: str
    name: str
    created_at: int
    last_active_at: int
    metadata: Mapping[str, str]
    revision: int
    generation: int
    rebuilding: bool
    embedding_model: str | None
    embedding_probe: bytes | None
    description: str | None = None
    expires_after_days: int | None = None
    expired_at: int | None = None
    attached: int = 0
    rebuilder: str | None = None
    learner: str | None = None

    @property
    def expires_at(self) -> int | None:
        """When the store expires if nobody uses it, or when it did."""
        if self.expired_at is not None or self.expires_after_days is None:
            return self.expired_at
        return self.last_active_at + self.expires_after_days * SECONDS_A_DAY

    @property
    def collection(self) -> str:
        """Name of the derived data; a rebuild makes the next generation beside it."""
        return f"{self.id}-{self.generation}"

    @property
    def next_collection(self) -> str:
        """Where a rebuild of this store writes."""
        return f"{self.id}-{self.generation + 1}"

    @property
    def collections(self) -> list[str]:
        """Where its files may be: also in the generation that is being made."""
        return [self.collection, self.next_collection] if self.rebuilding else [self.collection]


@dataclass(frozen=True, slots=True)
class Fusion:
    """What a store has learnt about how far its encoder can be trusted.

    Attributes:
        collection: The derived data that it was learnt from: another encoder makes another one.
        learnt_from: The number of chunks in the store at that time; 0 when nothing was learnt.
        dense_weight: {kind of query (see `text.kind_of`): share in 0..1 of the dense ranking}.
    """

    collection: str
    learnt_from: int
    dense_weight: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Progress:
    """How a rebuild, or a repair, of a store's derived data goes on.

    Attributes:
        done, total: Chunks. Both are 0 until it is known how many there are.
        error: Why it has stopped, for now; a sentence.
    """

    done: int
    total: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A file in a vector store."""

    store_id: str
    file_id: str
    status: FileStatus
    sequence: int
    created_at: int
    usage_bytes: int
    attributes: Attributes
    identity: str
    error_code: str | None = None
    error_message: str | None = None
    chunking: Mapping[str, int] | None = None
    batch_id: str | None = None
    owner: str | None = None
    shown: int | None = None


class SearchableFile(NamedTuple):
    """What a filter asks of a completed file; made by the ten thousand, so a tuple.

    Attributes:
        version: Another one when the file was taken out and indexed anew.
    """

    file_id: str
    version: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that is to be in a store.

    Attributes:
        attributes: None where nothing was said: those that it has stay.
        chunking: OpenAI's numbers of the `static` strategy, {} for `auto`, None where nothing was
            said.
        identity: What it replaces; None: its attribute `path`, else its file name.
    """

    file_id: str
    attributes: Attributes | None = None
    chunking: Mapping[str, int] | None = None
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Files that were put into a store together. `counts` is {status: number of files}."""

    id: str
    store_id: str
    created_at: int
    cancelled: bool
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a list is wanted: `after` and `before` are ids of its items."""

    limit: int
    newest_first: bool = True
    after: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """A part of a list, and whether more follows (with `before`: precedes)."""

    items: list[T]
    has_more: bool


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk of a completed file, with where it came from."""

    id: str
    file_id: str
    ordinal: int
    filename: str
    text: str
    start: int
    end: int
    page: int | None
    heading_path: tuple[str, ...]
    question: str | None
    answer: str | None
    attributes: Attributes = field(default_factory=dict)

    @property
    def indexed_text(self) -> str:
        """What the encoder and the word index read: the heading path, then the text."""
        return with_headings(self.heading_path, self.text)


@dataclass(frozen=True, slots=True)
class Garbage:
    """Derived data or bytes that nothing refers to any more and that must go."""

    id: int
    kind: Literal["postings", "collection", "bytes"]
    store_id: str | None
    file_id: str | None
    collection: str | None
    owner: str | None = None


def chunk_id(file_id: str, ordinal: int) -> str:
    """A chunk's id in Chroma and tantivy; unique within a store."""
    return f"{file_id}:{ordinal}"


def new_id(prefix: str) -> str:
    """A random identifier in OpenAI's style."""
    return prefix + secrets.token_hex(12)
