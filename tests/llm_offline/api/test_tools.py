"""What a request may say of functions."""

from __future__ import annotations

from typing import Any

import pytest

from llm_offline.api.parameters import ChatBody
from llm_offline.errors import BadRequest


def _body(parameters: dict[str, Any] | None, **more: Any) -> ChatBody:
    good = {"type": "function", "function": {"name": "good"}}
    function = {"name": "fine", "parameters": parameters}
    messages = [{"role": "user", "content": "x"}]
    tools = [good, {"type": "function", "function": function}]
    return ChatBody.model_validate({"messages": messages, "tools": tools, **more})


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "array", "items": {"type": "string"}},
        {"type": "string"},
        {"type": ["string", "null"]},
        {"type": "x"},
        {"type": {"of": "no kind"}},
        {"enum": 5},
        {"const": 5},
        {"enum": ["a", None]},
        {"type": "object", "enum": [1, 2]},
    ],
    ids=str,
)
@pytest.mark.parametrize("choice", ["auto", "required", "none"])
def test_parameters_that_are_never_an_object(parameters: dict[str, Any], choice: str) -> None:
    with pytest.raises(BadRequest, match='the function "fine" allows no object'):
        _ = _body(parameters, tool_choice=choice).offered


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {},
        {"type": "object"},
        {"type": ["object", "null"]},
        {"properties": {"a": {"type": "string"}}},
        {"anyOf": [{"type": "object"}, {"type": "null"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
        {"enum": [{"a": 1}, 2]},
    ],
    ids=str,
)
def test_parameters_that_may_be_one(parameters: dict[str, Any] | None) -> None:
    assert [tool.function.name for tool in _body(parameters).offered] == ["good", "fine"]
