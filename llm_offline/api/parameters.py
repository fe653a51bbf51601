"""What a request for text may say, and how it becomes a `GenerationRequest`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from llm_offline.api.body import Body, shown
from llm_offline.api.tools import NamedTool, Tool, check, check_parameters, permitted, required
from llm_offline.engine.interface import GenerationRequest, Grammar, Sampling
from llm_offline.errors import BadRequest, UnsupportedFeature
from llm_offline.loaded import Grammars, LoadedModel

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

MOST_BIASES = 32_768
"""Enough for all tokens of one script; each step of the request, and so of those beside it, reads
them."""

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

    @property
    def schema_(self) -> dict[str, Any] | None:
        """The schema of the text; None is any text."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


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
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MOST_BIASES)] | None = Field(
        None, description="Token id → addend"
    )

    @property
    def top(self) -> int | None:
        """How many alternatives to report at each token; None reports nothing."""
        return None

    def request(
        self, prompt: list[int], model: LoadedModel, *, max_tokens: int | None
    ) -> GenerationRequest:
        """The engine's request; what is not said is as the model's authors advise."""
        biases = self._biases(model.network.vocabulary)
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

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=16_384)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = Field(None, description="false: one call at most")

    @property
    def offered(self) -> list[Tool]:
        """The tools that may be called.

        Raises:
            BadRequest: `tool_choice` wants one that is not there, or one takes no object.
        """
        tools = self.tools or []
        check_parameters(tools)
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

    @property
    def is_call_required(self) -> bool:
        """Whether the answer can only be a call."""
        return self.tool_choice not in (None, "none", "auto")

    @property
    def several_calls(self) -> bool:
        """Whether one answer may make more than one call; a function that is named is called once.

        True where the request does not say, as with OpenAI.
        """
        return self.parallel_tool_calls is not False and not isinstance(self.tool_choice, NamedTool)

    def grammar(self, grammars: Grammars) -> Grammar | None:
        """What the text must follow; raises `BadRequest` for a schema that is none.

        `response_format` is about what the assistant says. Where it must call it says nothing;
        where it may call, it does that or says something in the format.
        """
        schema = self.response_format.schema_ if self.response_format else None
        # Also where it has no effect on this answer: the next request will send it too.
        said = None if schema is None else grammars.json_schema(schema)
        if self.is_call_required:
            return required(self.offered, grammars, several=self.several_calls)
        if self.offered:
            return permitted(self.offered, grammars, schema, several=self.several_calls)
        return said

    def call_check(self, grammars: Grammars) -> Callable[[str], bool] | None:
        """What tells calls from answers that look like them; None where nothing can."""
        return None if self.is_call_required else check(self.offered, grammars)

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
    messages: list[dict[str, Any]] | None = Field(None, min_length=1, max_length=16_384)
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
    tokens: list[int] = Field(max_length=2**20)
    skip_special_tokens: bool | None = Field(None, description="Leave them out of the text")
