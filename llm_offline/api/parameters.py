"""What a request for text may say, and how it becomes a `GenerationRequest`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from llm_offline.api.body import Body, shown
from llm_offline.engine.interface import GenerationRequest, Sampling
from llm_offline.engine.text import Message
from llm_offline.errors import BadRequest, UnsupportedFeature

ROLES = ("system", "developer", "user", "assistant")
# Fields of an answer that clients send back with the history; they do not change the prompt.
_ECHOED = frozenset(
    {"role", "content", "name", "refusal", "annotations", "citations", "reasoning_content"}
)

StopString = Annotated[str, Field(min_length=1, max_length=1000)]


class StreamOptions(Body):
    """OpenAI's `stream_options`; `include_obfuscation` is accepted and without effect."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    include_usage: bool = False
    include_obfuscation: bool = False


class TextBody(Body):
    """What all requests for text have in common."""

    model: str | None = Field(None, description="Any name: the server has one model")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    seed: int | None = None

    def request(
        self, prompt: list[int], defaults: Sampling, *, max_tokens: int | None
    ) -> GenerationRequest:
        """The engine's request; what is not said comes from `defaults`."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return GenerationRequest(
            prompt=tuple(prompt),
            sampling=Sampling(
                defaults.temperature if self.temperature is None else self.temperature,
                defaults.top_p if self.top_p is None else self.top_p,
                self.seed,
            ),
            max_tokens=max_tokens,
            stop=stops,
        )


class StreamedBody(TextBody):
    """Requests that may be streamed."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatBody(StreamedBody):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def limit(self) -> int | None:
        """`max_completion_tokens`, or `max_tokens`, its older name."""
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise BadRequest(
                f"max_tokens={old} and max_completion_tokens={new} contradict: send one",
                param="max_completion_tokens",
            )
        return old if new is None else new


class CompletionBody(StreamedBody):
    """`POST /v1/completions`."""

    prompt: str | list[str]

    @property
    def text(self) -> str:
        """The one prompt."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) != 1:
            raise UnsupportedFeature("prompt: one text a request", param="prompt")
        return self.prompt[0]


class GenerateBody(TextBody):
    """`POST /v1/generate`."""

    prompt: str
    do_sample: bool | None = None

    def sampled(self) -> GenerateBody:
        """With `do_sample` expressed as a temperature."""
        if self.do_sample is False:
            return self.model_copy(update={"temperature": 0.0})
        if self.do_sample and self.temperature == 0:
            raise BadRequest("do_sample=true and temperature=0 contradict", param="do_sample")
        return self


class TokenizeBody(Body):
    """`POST /tokenize`: one of the two."""

    model: str | None = None
    text: str | None = None
    messages: list[dict[str, Any]] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_of_the_two(self) -> TokenizeBody:
        if (self.text is None) == (self.messages is None):
            raise ValueError('{"text": ...} or {"messages": [...]}')
        return self


def plain_messages(raw: list[dict[str, Any]], param: str = "messages") -> list[Message]:
    """OpenAI's messages → role and text, content parts joined.

    Raises:
        BadRequest: An unknown role, or content that is not text.
        UnsupportedFeature: Images, audio, files or tool calls.
    """
    return [_plain(message, f"{param}[{number}]") for number, message in enumerate(raw)]


def _plain(message: dict[str, Any], where: str) -> Message:
    role = message.get("role")
    if role in ("tool", "function"):
        raise UnsupportedFeature(f"{where}: tools are not offered by this server", param=where)
    if role not in ROLES:
        raise BadRequest(
            f"{where}.role={shown(role)} is not allowed: it should be one of {', '.join(ROLES)}",
            param=where,
        )
    for name, value in message.items():
        if name not in _ECHOED and value not in (None, [], {}):
            raise UnsupportedFeature(
                f"{where}.{name} is not offered by this server: leave it out", param=where
            )
    # The older templates know no developer, which is the newer name of the system.
    name = "system" if role == "developer" else role
    return {"role": name, "content": _text(message.get("content"), f"{where}.content")}


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequest(f"{where} must be text or a list of text parts", param=where)
    return "\n".join(_part(part, f"{where}[{number}]") for number, part in enumerate(content))


def _part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if isinstance(part, dict) and isinstance(kind, str) and kind != "text":
        raise UnsupportedFeature(
            f"{where}: parts of type {shown(kind)} are not offered by this server, text is",
            param=where,
        )
    raise BadRequest(f'{where} must be {{"type": "text", "text": ...}}', param=where)
