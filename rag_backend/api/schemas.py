"""Request bodies, as OpenAI's reference has them.

Fields that this backend cannot honour are refused by name; unknown ones are passed on to the
provider.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rag_backend.errors import BadRequest, UnsupportedFeature

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


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

    messages: list[ChatMessage] = Field(min_length=1)
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
