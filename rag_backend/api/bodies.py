"""Request bodies of the vector stores, with the limits of OpenAI's reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StringConstraints, model_validator

from rag_backend.api.schemas import Body
from rag_backend.errors import BadRequest
from rag_backend.knowledge.models import Attachment

MOST_IN_A_BATCH = 2000

StoreName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256)]
FileId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Key = Annotated[str, StringConstraints(max_length=64)]
ShortText = Annotated[str, StringConstraints(max_length=512)]
Description = Annotated[str, StringConstraints(max_length=10_000)]
Metadata = Annotated[dict[Key, ShortText], Field(max_length=16)]
# A number that a database keeps as it is; JSON has larger ones.
Number = Annotated[float, Field(strict=True, ge=-1e15, le=1e15)]
Attributes = Annotated[dict[Key, ShortText | Number | StrictBool], Field(max_length=16)]


class ExpiresAfter(Body):
    """When a store that nobody uses lets go of its content."""

    anchor: Literal["last_active_at"]
    days: int = Field(ge=1, le=365)


class StaticChunking(Body):
    """Sizes of the windows of the `static` strategy, in tokens."""

    max_chunk_size_tokens: int = Field(ge=100, le=4096)
    chunk_overlap_tokens: int = Field(ge=0)

    @model_validator(mode="after")
    def _overlap(self) -> StaticChunking:
        if 2 * self.chunk_overlap_tokens > self.max_chunk_size_tokens:
            raise ValueError("chunk_overlap_tokens must not exceed half of max_chunk_size_tokens")
        return self


class ChunkingStrategy(Body):
    """How files are cut: `auto` along their structure, `static` in windows."""

    type: Literal["auto", "static"]
    static: StaticChunking | None = None

    @model_validator(mode="after")
    def _sizes(self) -> ChunkingStrategy:
        if (self.type == "static") is not (self.static is not None):
            raise ValueError("`static` belongs to the type static, which needs it")
        return self


class StoreBody(Body):
    """`POST /v1/vector_stores`."""

    name: StoreName | None = None
    file_ids: Annotated[list[FileId], Field(max_length=500)] | None = None
    metadata: Metadata | None = None
    description: Description | None = None
    chunking_strategy: ChunkingStrategy | None = None
    expires_after: ExpiresAfter | None = None

    def wanted(self) -> list[Attachment]:
        """The files that the store begins with."""
        chunking = sizes(self.chunking_strategy)
        return [Attachment(file_id, None, chunking) for file_id in self.file_ids or ()]


class StoreChanges(Body):
    """`POST /v1/vector_stores/{id}`: what is not named stays, and null takes it away.

    A store always has a name, so null leaves that.
    """

    name: StoreName | None = None
    metadata: Metadata | None = None
    description: Description | None = None
    expires_after: ExpiresAfter | None = None

    def values(self) -> dict[str, Any]:
        """Columns to change."""
        values = self.model_dump(include={"description"}, exclude_unset=True)
        if self.name is not None:
            values["name"] = self.name
        if "metadata" in self.model_fields_set:
            values["metadata"] = self.metadata or {}
        return values


class StoreFileBody(Body):
    """`POST /v1/vector_stores/{id}/files`, and one of a batch's `files`."""

    file_id: FileId
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    def wanted(self) -> Attachment:
        """The file as it is to be in the store."""
        return Attachment(self.file_id, self.attributes, sizes(self.chunking_strategy))


class BatchBody(Body):
    """`POST /v1/vector_stores/{id}/file_batches`: `file_ids` or `files`."""

    file_ids: Annotated[list[FileId], Field(min_length=1, max_length=MOST_IN_A_BATCH)] | None = None
    files: (
        Annotated[list[StoreFileBody], Field(min_length=1, max_length=MOST_IN_A_BATCH)] | None
    ) = None
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    def wanted(self) -> list[Attachment]:
        """The batch's files; raises BadRequest unless exactly one of the two lists is given."""
        if (self.files is None) is (self.file_ids is None):
            raise BadRequest("Give either `file_ids` or `files`.", param="file_ids")
        if self.files is None:
            chunking = sizes(self.chunking_strategy)
            return [Attachment(i, self.attributes, chunking) for i in self.file_ids or ()]
        for name in ("attributes", "chunking_strategy"):
            if getattr(self, name) is not None:
                raise BadRequest(
                    f"With `files`, `{name}` belongs into each of them: beside them it would "
                    "have no effect.",
                    param=name,
                )
        return [item.wanted() for item in self.files]


class AttributesBody(Body):
    """`POST /v1/vector_stores/{id}/files/{file_id}`."""

    attributes: Attributes | None


class RankingOptions(Body):
    """How search results are ranked and cut; `none` leaves the reranker out."""

    ranker: Literal["none", "auto", "default-2024-11-15"] | None = None
    score_threshold: float | None = Field(None, ge=0, le=1)


Query = Annotated[str, StringConstraints(max_length=20_000)]


class SearchBody(Body):
    """`POST /v1/vector_stores/{id}/search`."""

    query: Query | Annotated[list[Query], Field(min_length=1, max_length=16)]
    max_num_results: int = Field(10, ge=1, le=50)
    filters: dict[str, Any] | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = False

    @property
    def rerank(self) -> bool:
        """Whether the reranker, where there is one, has the last word."""
        return self.ranking_options is None or self.ranking_options.ranker != "none"

    def queries(self) -> list[str]:
        """What is asked; raises BadRequest when that is nothing."""
        given = [self.query] if isinstance(self.query, str) else self.query
        if not all(query.strip() for query in given):
            raise BadRequest("`query` is empty.", param="query")
        return given


def sizes(strategy: ChunkingStrategy | None) -> Mapping[str, int] | None:
    """As `Attachment` has it: {} for `auto`, None where nothing was said."""
    if strategy is None:
        return None
    return {} if strategy.static is None else strategy.static.model_dump()
