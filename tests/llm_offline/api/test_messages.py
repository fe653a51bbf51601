"""OpenAI's messages as chat templates take them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_offline.api.messages import plain_messages
from llm_offline.errors import BadRequest, UnsupportedFeature


def _history(arguments: object, **more: Any) -> list[dict[str, Any]]:
    function = {"name": "fine", "arguments": arguments}
    call: dict[str, Any] = {"id": "c1", "type": "function", "function": function} | more
    return [{"role": "assistant", "content": None, "tool_calls": [call]}]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ('{"vehicle": "xe máy 😀"}', {"vehicle": "xe máy 😀"}),
        (r'{"vehicle": "\ud83d\ude00"}', {"vehicle": "😀"}),
        ("{}", {}),
        ("", {}),
        (" \n", {}),
        ("null", {}),
        ("[]", {}),
    ],
)
def test_arguments_become_an_object(arguments: str, found: dict[str, Any]) -> None:
    (message,) = plain_messages(_history(arguments))
    assert message["content"] == ""
    assert message["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "fine", "arguments": found}}
    ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("[1]", "must be a JSON object"),
        ("5", "must be a JSON object"),
        ('"s"', "must be a JSON object"),
        ('{"a":', "is not JSON"),
        ('{"a": NaN}', "NaN is not a number that can be read"),
        ('{"a": -Infinity}', "-Infinity is not a number that can be read"),
        ('{"a": 1e999}', "1e999 is not a number that can be read"),
        ('{"a": ' + "9" * 5000 + "}", "an integer with too many digits"),
        ('{"a": ' + "9" * 5000 + ".0}", "9999 is not a number that can be read"),
        (r'{"a": "\ud800"}', "half of a surrogate pair"),
        (r'{"\uDC00": 1}', "half of a surrogate pair"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 250 + "1" + "}" * 250, "nested too deeply"),
        ({"a": 1}, "must be such as"),
        (None, "must be such as"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_arguments_that_are_none(arguments: object, reason: str) -> None:
    with pytest.raises(BadRequest) as raised:
        plain_messages([{"role": "user", "content": "x"}, *_history(arguments)])
    assert reason in str(raised.value)
    assert len(str(raised.value)) < 200
    assert str(raised.value.param).startswith("messages[1].tool_calls[0]")


@pytest.mark.parametrize("change", [{"id": 5}, {"id": None}, {"function": {"arguments": "{}"}}])
def test_calls_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"tool_calls\[0\] must be such as"):
        plain_messages(_history("{}", **change))
    for calls in ("x", {"a": 1}, [None], [[]]):
        with pytest.raises(BadRequest, match="must be such as"):
            plain_messages([{"role": "assistant", "tool_calls": calls}])


def test_a_field_that_is_not_known_is_refused_in_every_role() -> None:
    for role in ("system", "developer", "user", "assistant", "tool"):
        message = {"role": role, "content": "x"} | ({"tool_call_id": "c"} if role == "tool" else {})
        assert plain_messages([message | {"name": "n", "foo": None}])
        with pytest.raises(UnsupportedFeature, match=r"messages\[0\].foo is not offered"):
            plain_messages([message | {"foo": 1}])
    with pytest.raises(UnsupportedFeature, match="tool_call_id is not offered"):
        plain_messages([{"role": "user", "content": "x", "tool_call_id": "c"}])


def test_what_gateways_add_to_a_message_changes_nothing() -> None:
    result = {"role": "tool", "content": "x", "tool_call_id": "c"}
    added = {"is_error": False, "tool_name": "fine", "cache_control": {"type": "ephemeral"}}
    assert plain_messages([result | added | {"id": "m1"}]) == plain_messages([result])


def test_deep_arguments_that_are_allowed() -> None:
    deep = '{"a": ' * 199 + "[]" + "}" * 199
    (message,) = plain_messages(_history(deep))
    assert message["tool_calls"][0]["function"]["arguments"] == json.loads(deep)
