"""Functions that a model may call: what a request says of them, and what a text must follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from llm_offline.api.body import Body
from llm_offline.engine.interface import Grammar
from llm_offline.engine.text.calling import Signature
from llm_offline.loaded import Grammars

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class Function(Body):
    """A function's name, purpose and parameters (a JSON schema)."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(None, description="Its arguments follow `parameters`")


class Tool(Body):
    """OpenAI's tool; functions are the only kind."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["function"]
    function: Function

    def signature(self, *, followed: bool = True) -> Signature:
        """What its calls are like; unless `followed`, with any object for arguments."""
        schema = (self.function.parameters if followed else None) or _ANY_OBJECT
        return Signature(self.function.name, schema)


class _Named(Body):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str


class NamedTool(Body):
    """`tool_choice` of one function."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["function"]
    function: _Named


def check_parameters(tools: Sequence[Tool]) -> None:
    """Raise `BadRequest` for a function whose schema allows no object, which calls have.

    Also where no grammar will follow it: the model is told of it, and cannot call it.
    """
    for tool in tools:
        tool.signature().arguments()


def required(tools: Sequence[Tool], grammars: Grammars, *, several: bool) -> Grammar:
    """Calls and nothing else; their arguments follow the schemas, strict or not."""
    return grammars.calls([tool.signature() for tool in tools], several=several)


def permitted(
    tools: Sequence[Tool], grammars: Grammars, answer: Mapping[str, Any] | None, *, several: bool
) -> Grammar | None:
    """Calls, or an answer: of the schema `answer`, or any text.

    The arguments of strict functions follow their schemas. Nothing is restricted where neither a
    function nor the answer asks for it: the model then writes at full speed.
    """
    if answer is None and not any(tool.function.strict for tool in tools):
        return None
    otherwise: Mapping[str, Any] | Literal["text"] = "text" if answer is None else answer
    return grammars.calls(_lenient(tools), several=several, otherwise=otherwise)


def check(tools: Sequence[Tool], grammars: Grammars) -> Callable[[str], bool] | None:
    """Tells calls from answers that look like them, which strict functions must not get."""
    if not any(tool.function.strict for tool in tools):
        return None
    return grammars.call_check(_lenient(tools))


def _lenient(tools: Sequence[Tool]) -> list[Signature]:
    return [tool.signature(followed=bool(tool.function.strict)) for tool in tools]
