"""Attribute filters."""

from __future__ import annotations

from typing import Any

import pytest

from rag_backend.errors import BadRequest
from rag_backend.knowledge import filters

ATTRIBUTES = {"year": 2024, "team": "sales", "draft": False}


def compare(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("kind", "key", "value", "expected"),
    [
        ("eq", "team", "sales", True),
        ("eq", "team", "it", False),
        ("ne", "team", "it", True),
        ("gt", "year", 2023, True),
        ("gt", "year", 2024, False),
        ("gte", "year", 2024, True),
        ("lt", "year", 2024.5, True),
        ("lte", "year", 2023, False),
        ("in", "team", ["it", "sales"], True),
        ("in", "team", ["it"], False),
        ("nin", "team", ["it"], True),
        ("nin", "team", ["sales"], False),
        ("gt", "team", 3, False),
        ("gt", "draft", -1, False),
        ("eq", "absent", "x", False),
        ("lt", "absent", 1, False),
        ("in", "absent", ["x"], False),
        ("ne", "absent", "x", True),
        ("nin", "absent", ["x"], True),
    ],
)
def test_comparisons(kind: str, key: str, value: Any, expected: bool) -> None:
    asked = compare(kind, key, value)
    filters.check(asked)
    assert filters.matches(asked, ATTRIBUTES) is expected


def test_nested() -> None:
    sales, old = compare("eq", "team", "sales"), compare("lt", "year", 2000)
    either = {"type": "or", "filters": [old, {"type": "and", "filters": [sales]}]}
    both = {"type": "and", "filters": [sales, either, old]}
    filters.check(both)
    assert filters.matches(either, ATTRIBUTES)
    assert not filters.matches(both, ATTRIBUTES)


def _deep(levels: int) -> dict[str, Any]:
    return {"type": "and", "filters": [_deep(levels - 1)]} if levels else compare("eq", "a", "b")


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        "eq",
        {},
        {"type": []},
        {"type": {"a": 1}},
        {"type": "like", "key": "a", "value": "b"},
        {"type": "eq", "value": "b"},
        {"type": "eq", "key": "a"},
        {"type": "eq", "key": 1, "value": "b"},
        {"type": "in", "key": "a", "value": "b"},
        {"type": "gt", "key": "a", "value": "b"},
        {"type": "gt", "key": "a", "value": True},
        {"type": "and", "filters": []},
        {"type": "or", "filters": "x"},
        {"type": "or", "filters": [1]},
        _deep(9),
    ],
)
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(BadRequest):
        filters.check(wrong)


def test_eight_levels_are_not_too_many() -> None:
    filters.check(_deep(8))


@pytest.mark.parametrize("value", [1, 0, 1.0])
def test_a_number_is_no_boolean(value: float) -> None:
    attributes = {"done": bool(value)}
    assert not filters.matches({"type": "eq", "key": "done", "value": value}, attributes)
    assert filters.matches({"type": "ne", "key": "done", "value": value}, attributes)
    assert not filters.matches({"type": "in", "key": "done", "value": [value]}, attributes)
    assert filters.matches({"type": "nin", "key": "done", "value": [value]}, attributes)


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
def test_what_no_attribute_can_be_is_refused(value: object) -> None:
    with pytest.raises(BadRequest, match="a text, a number or a boolean"):
        filters.check({"type": "eq", "key": "done", "value": value})
    with pytest.raises(BadRequest, match="a text, a number or a boolean"):
        filters.check({"type": "in", "key": "done", "value": [value]})
