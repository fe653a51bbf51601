"""Request bodies, as OpenAI's reference has them.

Fields that this backend cannot honour are refused by name; unknown ones are passed on to the
provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from rag_backend.errors import BadRequest, UnsupportedFeature

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
AttributeValue = str | float | bool


class Body(BaseModel):
    """A JSON body whose unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ChatMessage(BaseModel):
    """One message; what a provider may need beside role and content is kept."""

    model_config = ConfigDict(extra="allow")

    role: Role
    content: str | list[dict[str, Any]] | None = None

    def plain(self, at: int) -> dict[str, Any]:
        """The message with text parts joined into one string.

        Raises:
            UnsupportedFeature: A part is no text.
            BadRequest: A user's message says nothing.
        """
        text = self._text(at)
        if self.role == "user" and not text.strip():
            raise BadRequest(f"Message {at} is empty.", param=f"messages.{at}.content")
        return {"role": self.role, "content": text, **(self.model_extra or {})}

    def _text(self, at: int) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        texts: list[str] = []
        for part in self.content:
            kind = part.get("type")
            if kind == "refusal":  # what an SDK sends back of an assistant's turn
                part = {"text": part.get("refusal")}
            elif kind not in ("text", "input_text", "output_text"):
                part = {}
            if not isinstance(part.get("text"), str):
                raise UnsupportedFeature(
                    f"Content parts of type {kind!r} are not supported: send text.",
                    param=f"messages.{at}.content",
                )
            texts.append(part["text"])
        return "\n".join(texts)


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    include_usage: bool = False


class ChatBody(BaseModel):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    messages: list[ChatMessage] = Field(min_length=1, max_length=2048)
    model: str | None = Field(None, max_length=256)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def options(self) -> dict[str, Any]:
        """Parameters for the provider, as they came; raises UnsupportedFeature."""
        if self.n not in (None, 1):
            raise UnsupportedFeature("`n` must be 1: one answer a request.", param="n")
        given = self.model_dump(exclude_none=True, exclude={*_OURS})
        if "stop" in given:  # an empty string stops nothing
            listed = [self.stop] if isinstance(self.stop, str) else self.stop or []
            given["stop"] = [ending for ending in listed if ending]
        for name in ("modalities", "audio", "functions", "function_call", "web_search_options"):
            if given.get(name) not in (None, ["text"]):
                raise UnsupportedFeature(f"`{name}` is not supported.", param=name)
        return given


_OURS = ("messages", "model", "stream", "stream_options", "n")


class EmbeddingBody(Body):
    """`POST /v1/embeddings`."""

    input: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class ExpiresAfter(BaseModel):
    """An expiry policy: accepted in the request only to be refused by name."""

    anchor: str
    days: int | None = None
    seconds: int | None = None


class StaticChunking(Body):
    """Sizes of a static chunking strategy."""

    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class ChunkingStrategy(Body):
    """How files are cut. Chunks here follow the document's structure and the encoder's limit."""

    type: Literal["auto", "static"]
    static: StaticChunking | None = None


StoreName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256)]


class StoreBody(Body):
    """`POST /v1/vector_stores`."""

    name: StoreName | None = None
    file_ids: Annotated[list[str], Field(max_length=500)] = []
    metadata: dict[str, str] | None = None
    description: str | None = None
    chunking_strategy: ChunkingStrategy | None = None
    expires_after: ExpiresAfter | None = None


class StoreChanges(Body):
    """`POST /v1/vector_stores/{id}`."""

    name: StoreName | None = None
    metadata: dict[str, str] | None = None
    expires_after: ExpiresAfter | None = None


class StoreFileBody(Body):
    """`POST /v1/vector_stores/{id}/files`."""

    file_id: str
    attributes: dict[str, AttributeValue] | None = None
    chunking_strategy: ChunkingStrategy | None = None


class AttributesBody(Body):
    """`POST /v1/vector_stores/{id}/files/{file_id}`."""

    attributes: dict[str, AttributeValue] | None


class RankingOptions(Body):
    """How search results are ranked and cut; `none` leaves the cross-encoder out."""

    ranker: Literal["none", "auto", "default-2024-11-15"] | None = None
    score_threshold: float | None = Field(None, ge=0, le=1)


class SearchBody(Body):
    """`POST /v1/vector_stores/{id}/search`."""

    query: str | Annotated[list[str], Field(min_length=1, max_length=16)]
    max_num_results: int = Field(10, ge=1, le=50)
    filters: dict[str, Any] | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: bool = False


def refuse_unsupported(
    chunking: ChunkingStrategy | None = None, expires: ExpiresAfter | None = None
) -> None:
    """Raise UnsupportedFeature for options that are valid at OpenAI and have no effect here."""
    if chunking is not None and chunking.type != "auto":
        raise UnsupportedFeature(
            "Only `chunking_strategy` auto is supported: chunks follow the document's structure.",
            param="chunking_strategy",
        )
    if expires is not None:
        raise UnsupportedFeature("`expires_after` is not supported.", param="expires_after")


def check_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """OpenAI's limits: 16 pairs, keys of 64 and text values of 512 characters."""
    given = dict(attributes or {})
    if len(given) > 16:
        raise BadRequest("At most 16 attributes are allowed.", param="attributes")
    for key, value in given.items():
        if len(key) > 64 or (isinstance(value, str) and len(value) > 512):
            raise BadRequest(
                f"Attribute {key[:64]!r} is too long: keys have at most 64 characters, "
                "values at most 512.",
                param="attributes",
            )
    return given
