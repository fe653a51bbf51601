"""What the routes answer with, in OpenAI's shapes; our additions are named in the comments.

They are what `/openapi.json` documents and what leaves is checked against.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, NotRequired, TypeVar

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

Item = TypeVar("Item")
OPEN = ConfigDict(extra="allow")
"""For what is told by parts that may have more to tell; without it, more would be left out."""


class Problem(TypedDict):
    """What went wrong, in one sentence."""

    message: str
    type: str
    param: str | None
    code: str | None


class Lack(TypedDict):
    """What keeps questions from being answered, or from being answered as they should."""

    name: str
    since: str | None
    reason: str


class ReadinessReport(TypedDict):
    """Whether a question can be answered now; `dependencies` has one row each."""

    status: Literal["ready", "degraded", "unready"]
    missing: list[Lack]
    dependencies: list[dict[str, Any]]


class ErrorEnvelope(TypedDict):
    """Every failure."""

    error: Problem


class Page(TypedDict, Generic[Item]):
    """A part of a list; `after=last_id` asks for the next one."""

    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(TypedDict):
    """Something is gone."""

    id: str
    object: Literal["file", "vector_store.deleted", "vector_store.file.deleted"]
    deleted: Literal[True]


class FileObject(TypedDict):
    """Uploaded bytes."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FileCounts(TypedDict):
    """Files of a store or of a batch by status."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class ExpiresAfterObject(TypedDict):
    """Days without use."""

    anchor: Literal["last_active_at"]
    days: int


class RebuildObject(TypedDict):
    """How far a rebuild is, in chunks."""

    done: int
    total: int
    error: str | None


class FusionObject(TypedDict):
    """What a store has learnt about its encoder: the dense ranking's share by kind of query."""

    dense_weight: dict[str, float]
    learnt_from: int


class StoreObject(TypedDict):
    """A vector store; the last four fields are ours."""

    id: str
    object: Literal["vector_store"]
    created_at: int
    name: str
    description: str | None
    usage_bytes: int
    file_counts: FileCounts
    status: Literal["in_progress", "completed", "expired"]
    expires_after: ExpiresAfterObject | None
    expires_at: int | None
    last_active_at: int
    metadata: dict[str, str]
    revision: int
    embedding_model: str | None
    rebuild: RebuildObject | None
    fusion: FusionObject


class BatchObject(TypedDict):
    """Files that were put into a store together."""

    id: str
    object: Literal["vector_store.files_batch"]
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    file_counts: FileCounts


class StaticSizes(TypedDict):
    """Of windows, in tokens."""

    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class ChunkingObject(TypedDict):
    """`other` follows the document's structure; `effective` is what `static` comes to."""

    type: Literal["static", "other"]
    static: NotRequired[StaticSizes]
    effective: NotRequired[StaticSizes]


class FileError(TypedDict):
    """Why a file could not be indexed, in one sentence."""

    code: str
    message: str | None


class StoreFileObject(TypedDict):
    """A file in a vector store."""

    id: str
    object: Literal["vector_store.file"]
    created_at: int
    usage_bytes: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    last_error: FileError | None
    chunking_strategy: ChunkingObject
    attributes: dict[str, str | float | bool]


class Place(TypedDict):
    """Where a text stands in its file; `start` and `end` count its characters."""

    page: int | None
    heading_path: list[str]
    start: int
    end: int


class BestPlace(TypedDict):
    """Where, inside a passage, the chunk stands that was found."""

    page: int | None
    start: int
    end: int


class TextContent(TypedDict):
    """A part of a passage."""

    type: Literal["text"]
    text: str


class ChunkContent(Place):
    """A part of a file's text."""

    type: Literal["text"]
    text: str


class SearchResult(TypedDict):
    """A passage; from `page` on the fields are ours."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, str | float | bool]
    content: list[TextContent]
    page: int | None
    heading_path: list[str]
    start: int
    end: int
    best: BestPlace


class SearchPage(TypedDict):
    """The passages for a query."""

    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[SearchResult]
    has_more: Literal[False]
    next_page: None


class ContentPage(TypedDict):
    """A file's text as it was indexed."""

    object: Literal["vector_store.file_content.page"]
    data: list[ChunkContent]
    has_more: Literal[False]
    next_page: None


class ModelObject(TypedDict):
    """A name that a request may give as its `model`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """All of them."""

    object: Literal["list"]
    data: list[ModelObject]


class EmbeddingObject(TypedDict):
    """A vector, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Tokens as estimated."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """One vector a text."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage


class Cleared(TypedDict):
    """How many answers were forgotten."""

    object: Literal["cache.cleared"]
    cleared: int


class Latency(TypedDict):
    """Time to the first token over the last answers."""

    first_token_p50_ms: float | None
    first_token_p95_ms: float | None


@with_config(OPEN)
class HostObject(TypedDict):
    """One address of a provider."""

    base_url: str
    breaker: str
    failures_in_a_row: int
    last_error: str | None
    in_flight: int
    answers: int
    failures: int
    latency: Latency


@with_config(OPEN)
class ProviderObject(TypedDict):
    """Who can answer."""

    object: Literal["provider"]
    name: str
    kind: str
    base_urls: list[str]
    model: str | None
    cloud: bool
    context_tokens: int | None
    chosen: bool
    fallback: bool
    state: str
    in_flight: int
    latency: Latency
    hosts: list[HostObject]


class ProviderList(TypedDict):
    """All of them."""

    object: Literal["list"]
    data: list[ProviderObject]


class Citation(TypedDict):
    """A source of an answer; `index` is its marker's number."""

    index: int
    file_id: str
    filename: str
    page: int | None
    heading_path: list[str]
    quote: str
    score: float
    url: str
    start_index: int
    end_index: int


class AnswerMessage(TypedDict):
    """What was answered; a model may add fields."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    annotations: list[dict[str, Any]]
    tool_calls: NotRequired[list[dict[str, Any]]]


class AnswerChoice(TypedDict):
    """There is one."""

    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: str


class AnswerUsage(TypedDict):
    """Tokens, as reported or estimated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(TypedDict):
    """A cited answer; `provider` and `citations` are ours."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    provider: str
    choices: list[AnswerChoice]
    usage: AnswerUsage | None
    citations: list[Citation]
