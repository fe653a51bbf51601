"""What a request for a task may say."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from llm_offline.api.body import Body
from llm_offline.api.messages import plain_messages
from llm_offline.api.parameters import SampledBody, Stops, StreamOptions
from llm_offline.engine.interface import Sampling
from llm_offline.errors import BadRequest
from llm_offline.tasks import prompts
from llm_offline.tasks.compressing import LEAST_TARGET, Passage
from llm_offline.tasks.extraction import Schema, narrowed, schema_of

Words = Annotated[int, Field(ge=5, le=20_000)]


class SourceBody(SampledBody):
    """Tasks that read a text or a conversation."""

    text: str | None = Field(None, description="What to read; or `messages`")
    messages: list[dict[str, Any]] | None = Field(None, min_length=1, max_length=2048)
    max_tokens: int | None = Field(None, ge=1)

    @property
    def source(self) -> tuple[str, str]:
        """The text, or the conversation as one, and the name of the field that has it.

        Raises:
            BadRequest: There is nothing in it, or there are both.
        """
        if self.text is not None and self.messages is not None:
            raise BadRequest("text and messages were sent: send one of them", param="messages")
        if self.messages is not None:
            return prompts.transcript(plain_messages(self.messages)), "messages"
        if self.text is None:
            raise BadRequest("text is required, or messages in its place", param="text")
        if not self.text.strip():
            raise BadRequest("text is empty", param="text")
        return self.text, "text"


class SummarizeBody(SourceBody):
    """`POST /summarize`."""

    length: Literal["short", "medium", "long"] | Words | None = Field(
        None, description="short (50 words), medium (150), long (400), or a number of words"
    )
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class PassageBody(Body):
    """A passage with what the client calls it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    text: str
    source: Any = Field(None, description="Given back as it is: a title, an id, an object")


class CompressBody(SampledBody):
    """`POST /compress`."""

    passages: list[str | PassageBody] = Field(min_length=1, max_length=1000)
    question: str
    target_tokens: int | None = Field(
        None, ge=LEAST_TARGET, description="Most tokens to be left; or `ratio`"
    )
    ratio: float | None = Field(None, gt=0, le=1, description="Largest share to be left")
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def checked(self) -> CompressBody:
        """Itself; raises `BadRequest` for an empty question or two targets."""
        if not self.question.strip():
            raise BadRequest("question is empty", param="question")
        if self.target_tokens is not None and self.ratio is not None:
            raise BadRequest("target_tokens and ratio were sent: send one of them", param="ratio")
        return self

    @property
    def given(self) -> list[Passage]:
        """The passages."""
        return [
            Passage(one) if isinstance(one, str) else Passage(one.text, one.source)
            for one in self.passages
        ]


class ExtractBody(SourceBody):
    """`POST /extract-parameters`."""

    model_config = ConfigDict(protected_namespaces=())

    schema_: dict[str, Any] | None = Field(
        None, alias="schema", description="JSON schema of an object; or `parameters`"
    )
    parameters: dict[str, Any] | None = Field(
        None,
        min_length=1,
        max_length=200,
        description='Name → type ("integer"), description, both ("integer: the fine"), or schema',
    )

    stream: Literal[False] | None = None

    @property
    def wanted(self) -> tuple[Schema, str]:
        """The schema, narrowed, and the name of the field that it comes from.

        Raises:
            BadRequest: None, two, or one that cannot say that a value is not there.
        """
        if self.schema_ is not None and self.parameters is not None:
            raise BadRequest("schema and parameters were sent: send one of them", param="schema")
        if self.schema_ is not None:
            return narrowed(self.schema_), "schema"
        if self.parameters is None:
            raise BadRequest(
                "parameters are required, or schema in their place", param="parameters"
            )
        return narrowed(schema_of(self.parameters)), "parameters"


def steady(defaults: Sampling) -> Sampling:
    """Tasks are to give the same result again unless the request says otherwise."""
    return replace(defaults, temperature=0.0)
