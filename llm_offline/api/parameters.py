"""What a request for text may say, and how it becomes a `GenerationRequest`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from llm_offline.api.body import Body, shown
from llm_offline.api.tools import NamedTool, Tool
from llm_offline.engine.interface import GenerationRequest, Grammar, Sampling
from llm_offline.engine.text import Message
from llm_offline.errors import BadRequest, UnsupportedFeature
from llm_offline.loaded import Grammars, LoadedModel

ROLES = ("system", "developer", "user", "assistant")
# Fields of an answer that clients send back with the history; they do not change the prompt.
_ECHOED = frozenset(
    {
        "role",
        "content",
        "name",
        "refusal",
        "annotations",
        "citations",
        "reasoning_content",
    }
)

_DIRECT = (
    "temperature",
    "top_p",
    "seed",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
"""Parameters that the engine knows by the same name."""

Bias = Annotated[float, Field(ge=-100, le=100)]
Number = Annotated[int, Field(ge=1, le=16)]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
Stops = StopString | Annotated[list[StopString], Field(max_length=16)]


def listed(stop: str | list[str] | None) -> tuple[str, ...]:
    """`stop` as the engine wants it."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


class StreamOptions(Body):
    """OpenAI's `stream_options`; `include_obfuscation` is accepted and without effect."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    include_usage: bool = False
    include_obfuscation: bool = False


class JsonSchema(Body):
    """OpenAI's `response_format.json_schema`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Body):
    """OpenAI's `response_format`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('{"type": "json_schema", "json_schema": {"schema": ...}}')
        return self

    def grammar(self, grammars: Grammars) -> Grammar | None:
        """What the text must follow; raises `BadRequest` for a schema that is none."""
        if self.json_schema is not None:
            return grammars.json_schema(self.json_schema.schema_)
        return grammars.json_object() if self.type == "json_object" else None


class SampledBody(Body):
    """What all requests that make the model write have in common."""

    model: str | None = Field(None, description="Any name: the server has one model")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    top_k: int | None = Field(None, ge=-1, description="0 and -1 are all")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)

    def sampling(self, defaults: Sampling) -> Sampling:
        """How tokens are drawn: as said, else as `defaults`."""
        said = {name: value for name in _DIRECT if (value := getattr(self, name)) is not None}
        if self.top_k is not None:
            said["top_k"] = max(0, self.top_k)
        return replace(defaults, **said)


class TextBody(SampledBody):
    """What all requests for one prompt's text have in common."""

    max_tokens: int | None = Field(None, ge=1)
    stop: Stops | None = None
    logit_bias: dict[str, Bias] | None = Field(None, description="Token id → addend")

    @property
    def top(self) -> int | None:
        """How many alternatives to report at each token; None reports nothing."""
        return None

    def request(
        self, prompt: list[int], model: LoadedModel, *, max_tokens: int | None
    ) -> GenerationRequest:
        """The engine's request; what is not said is as the model's authors advise."""
        vocabulary = model.network.vocabulary
        biases = self._biases(vocabulary)
        # A tokenizer may have been given tokens that its model has no place for.
        if (unknown := max(prompt, default=0)) >= vocabulary:
            raise BadRequest(
                f"the prompt has the token {unknown}, and the model knows 0 to {vocabulary - 1}: "
                "leave out what the tokenizer knows and the model does not",
                param="prompt",
            )
        return GenerationRequest(
            prompt=tuple(prompt),
            sampling=replace(self.sampling(model.defaults), logit_bias=biases, logprobs=self.top),
            max_tokens=max_tokens,
            stop=listed(self.stop),
        )

    def _biases(self, vocabulary: int) -> tuple[tuple[int, float], ...]:
        found = []
        for name, bias in (self.logit_bias or {}).items():
            number = name.isascii() and name.isdecimal() and len(name) <= 20
            if not (number and int(name) < vocabulary):
                raise BadRequest(
                    f"logit_bias: {shown(name)} is not one of the model's token ids, 0 to "
                    f"{vocabulary - 1}",
                    param="logit_bias",
                )
            found.append((int(name), float(bias)))
        return tuple(found)


class StreamedBody(TextBody):
    """Requests that may be streamed."""

    n: Number | None = Field(None, description="How many texts")
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def texts(self) -> range:
        """Numbers of the texts that are wanted."""
        return range(self.n or 1)

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatBody(StreamedBody):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None

    @property
    def offered(self) -> list[Tool]:
        """The tools that may be called.

        Raises:
            BadRequest: `tool_choice` wants one that is not there.
        """
        tools = self.tools or []
        if self.tool_choice == "none":
            return []
        if isinstance(self.tool_choice, NamedTool):
            wanted = self.tool_choice.function.name
            tools = [tool for tool in tools if tool.function.name == wanted]
        if not tools and self.tool_choice not in (None, "auto"):
            raise BadRequest(
                "tool_choice wants a tool that tools does not have", param="tool_choice"
            )
        return tools

    def grammar(self, grammars: Grammars) -> Grammar | None:
        """What the text must follow: a call where one is required, else the response's format."""
        if self.tool_choice not in (None, "none", "auto"):
            calls = {"anyOf": [tool.call_schema for tool in self.offered]}
            return grammars.json_schema(calls, param="tools")
        return self.response_format.grammar(grammars) if self.response_format else None

    @property
    def top(self) -> int | None:
        """See `TextBody.top`."""
        if self.top_logprobs and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs=true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

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
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def top(self) -> int | None:
        """See `TextBody.top`."""
        return self.logprobs

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
    stream: Literal[False] | None = None

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
    add_special_tokens: bool | None = Field(
        None, description="With the beginning-of-text token, which completions put before a text"
    )

    @model_validator(mode="after")
    def _one_of_the_two(self) -> TokenizeBody:
        if (self.text is None) == (self.messages is None):
            raise ValueError('{"text": ...} or {"messages": [...]}')
        return self


class DetokenizeBody(Body):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[int]
    skip_special_tokens: bool | None = Field(None, description="Leave them out of the text")


def plain_messages(raw: list[dict[str, Any]], param: str = "messages") -> list[Message]:
    """OpenAI's messages → role and text, content parts joined.

    Raises:
        BadRequest: An unknown role, or content that is not text.
        UnsupportedFeature: Images, audio, files or tool calls.
    """
    return [_plain(message, f"{param}[{number}]") for number, message in enumerate(raw)]


def _plain(message: dict[str, Any], where: str) -> Message:
    role = message.get("role")
    if role == "tool":
        return _tool_result(message, where)
    if role not in ROLES:
        raise BadRequest(
            f"{where}.role={shown(role)} is not allowed: it should be one of {', '.join(ROLES)}",
            param=where,
        )
    for name, value in message.items():
        echoed = name in _ECHOED or (name == "tool_calls" and role == "assistant")
        if not echoed and value not in (None, [], {}):
            raise UnsupportedFeature(
                f"{where}.{name} is not offered by this server: leave it out", param=where
            )
    if role == "assistant" and message.get("tool_calls"):
        said = "" if message.get("content") is None else _text(message["content"], where)
        calls = _calls(message["tool_calls"], f"{where}.tool_calls")
        return {"role": role, "content": said, "tool_calls": calls}
    # The older templates know no developer, which is the newer name of the system.
    name = "system" if role == "developer" else role
    return {"role": name, "content": _text(message.get("content"), f"{where}.content")}


def _tool_result(message: dict[str, Any], where: str) -> Message:
    call = message.get("tool_call_id")
    if not isinstance(call, str):
        raise BadRequest(f"{where}.tool_call_id is required: the id of the call", param=where)
    content = _text(message.get("content"), f"{where}.content")
    return {"role": "tool", "tool_call_id": call, "content": content}


def _calls(raw: object, where: str) -> list[dict[str, Any]]:
    """Calls as templates want them: their arguments as an object, not as its text."""
    found = []
    for call in raw if isinstance(raw, list) else [None]:
        function = call.get("function") if isinstance(call, dict) else None
        try:
            arguments = json.loads(function["arguments"])  # type: ignore[index]
            found.append(
                {
                    "id": str(call["id"]),  # type: ignore[index]
                    "type": "function",
                    "function": {"name": str(function["name"]), "arguments": arguments},  # type: ignore[index]
                }
            )
        except (TypeError, KeyError, ValueError) as error:
            raise BadRequest(
                f'{where} must be [{{"id", "type", "function": {{"name", "arguments"}}}}] with '
                "arguments that are JSON",
                param=where,
            ) from error
    return found


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
