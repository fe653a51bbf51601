"""JSON that must not hold the server up, and what is said of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_offline.api.body import MOST_CONTAINERS, MOST_NESTED, parse, parse_part, shown
from llm_offline.errors import BadRequest


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"[]", "must be a JSON object"),
        (b'{"a": NaN}', "NaN is not a number that can be read"),
        (b'{"a": 1e999}', "1e999 is not a number that can be read"),
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer with too many digits"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a": ' + b"[" * MOST_NESTED + b"]" * MOST_NESTED + b"}", "nested too deeply"),
        (b"[" * (MOST_CONTAINERS - 1), "nested too deeply"),
        (b'{"a": [' + b"{}," * MOST_CONTAINERS + b"{}]}", "more than 100000 lists and objects"),
        (b'{"a": "' + b'\\"[' * 4_000_000, "is not JSON"),
        (b'{"a": "' + b"{" * 4_000_000 + b"\\", "is not JSON"),
        (b"\xff", "is not JSON"),
    ],
    ids=range(11),
)
def test_what_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as refused:
        parse(raw)
    assert len(str(refused.value)) < 200
    with pytest.raises(BadRequest, match=reason.replace("the body", "there")):
        parse_part(raw.decode(errors="replace") if raw != b"\xff" else "?", "there")


def test_brackets_in_a_text_are_no_lists() -> None:
    said = {"a": '"[{' * MOST_CONTAINERS, "b": [[], {"c": "\\"}] * 100, "d": "\\[" * 200_000}
    assert parse(json.dumps(said).encode()) == said
    deep: dict[str, Any] = {}
    for _ in range(MOST_NESTED - 1):
        deep = {"a": deep}
    assert parse(json.dumps(deep).encode()) == deep


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\n\ud800", r"'a\n\ud800'"),
        (1.5, "1.5"),
        (float("nan"), "nan"),
        (None, "None"),
        ([1, {"a": "b"}], "[1, {'a': 'b'}]"),
    ],
)
def test_a_value_is_shown(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_large_value_is_shown_in_part() -> None:
    for large in ("x" * 10**7, list(range(10**6)), {str(n): n for n in range(10**6)}, 10**4000):
        assert len(shown(large)) <= 80
