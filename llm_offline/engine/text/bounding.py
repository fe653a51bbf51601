"""Limits for a JSON schema where it sets none.

Without them a model that has lost its way writes digits or brackets until its tokens are used up,
and what it leaves behind is no JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Far from what anybody wants.
_LONGEST_STRING = 4000
_MOST_ITEMS = 1000
_MOST_ENTRIES = 100
_NAME = "^.{0,100}$"
_LARGEST = 10**15
_SMALLEST_STEP = 1e-9
_DEEPEST = 6
_MOST_NESTED = 200
_ANY = "_any_value_"

# Keywords whose values are schemas, lists of schemas, and schemas by name.
# What stands in `not` and `if` must stay as wide as it is.
_ONE = ("items", "additionalProperties", "contains", "then", "else")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DECIDED = ("enum", "const", "$ref", *_LISTS)
_MERGED = {"properties", "$ref", "anyOf", "oneOf"}


class _Most(int):
    """A limit of entries that no schema asked for."""


def bounded(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with limits where it sets none, so that every text of it comes to an end.

    Raises:
        RecursionError: It is nested too deeply.
        ValueError, TypeError: It is no schema; not all that are none are found here.
    """
    found: dict[str, Any] = _bounded(schema)
    if _ANY in str(found):
        found["$defs"] = {**found.get("$defs", {}), **_any_values()}
    return _uncounted(found) if _merges(found) else found


def _merges(schema: Any) -> bool:
    """Whether an object, or a part of it, is described in more than one place.

    llguidance counts entries only where none of those named may be left out. Where it puts several
    descriptions together, a limit of ours in one meets a name of another.
    """
    if isinstance(schema, list):
        return any(map(_merges, schema))
    if not isinstance(schema, Mapping):
        return False
    several = "allOf" in schema or len(schema.keys() & _MERGED) > 1
    return several or any(map(_merges, schema.values()))


def _uncounted(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_uncounted(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {key: _uncounted(v) for key, v in schema.items() if not isinstance(v, _Most)}


def _bounded(schema: Any, depth: int = 0, *, is_part: bool = False) -> Any:
    """`is_part`: of a schema whose other parts hold as well."""
    if depth > _MOST_NESTED:
        raise RecursionError
    if not isinstance(schema, Mapping):
        return schema
    found = dict(schema)
    for name in _ONE:
        if isinstance(found.get(name), dict):
            found[name] = _bounded(found[name], depth + 1)
    for name in _LISTS:
        if isinstance(found.get(name), list):
            part = name == "allOf"
            found[name] = [_bounded(one, depth + 1, is_part=part) for one in found[name]]
    for name in _NAMED:
        if isinstance(found.get(name), dict):
            found[name] = {key: _bounded(one, depth + 1) for key, one in found[name].items()}
    if any(name in found for name in _DECIDED):
        return found
    kinds = found.get("type")
    if kinds is None:
        if is_part:
            return found
        if not (found.keys() - {"title", "description", "$schema", "default"}):
            return found | _any_value(_DEEPEST)
        # What is said of a type holds for the values that are of it.
        kinds = ["object", "array", "string", "number", "boolean", "null"]
    return _limited(found, kinds if isinstance(kinds, list) else [kinds], is_part=is_part)


def _limited(schema: dict[str, Any], kinds: list[Any], *, is_part: bool = False) -> dict[str, Any]:
    """Limits for each of the types that the schema names."""
    found = dict(schema)
    if "string" in kinds and not found.keys() & {"pattern", "format"}:
        found.setdefault("maxLength", max(_LONGEST_STRING, found.get("minLength", 0)))
    if "integer" in kinds or "number" in kinds:
        found |= _between(found)
    if "number" in kinds:
        # Each integer is a multiple of this, too.
        found.setdefault("multipleOf", _SMALLEST_STEP)
    if "array" in kinds:
        found.setdefault("maxItems", max(_MOST_ITEMS, found.get("minItems", 0)))
        if found.get("items", True) is True:
            found["items"] = _any_value(_DEEPEST)
    if "object" in kinds and not is_part:
        found |= _closed(found)
    return found


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Limits for an object's entries that the schema does not name."""
    value = schema.get("additionalProperties", True)
    if value is False:
        return {}
    value = _any_value(_DEEPEST) if value is True else value
    described = schema.keys() & {"properties", "patternProperties"}
    found = {"additionalProperties": value} if described else _entries(value)
    named = schema.get("properties", {})
    names = set(named) if isinstance(named, dict) else set()  # llguidance says what is wrong
    # It counts entries only where none of those named may be left out.
    if names <= {*schema.get("required", ())}:
        most = max(_MOST_ENTRIES, len(names), schema.get("minProperties", 0))
        found["maxProperties"] = schema.get("maxProperties", _Most(most))
    return found


def _entries(value: Any) -> dict[str, Any]:
    """Keywords for an object of such values, under any short names."""
    return {"patternProperties": {_NAME: value}, "additionalProperties": False}


def _between(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The lower and the upper limit that the schema lacks."""
    lower = schema.get("minimum", schema.get("exclusiveMinimum"))
    upper = schema.get("maximum", schema.get("exclusiveMaximum"))
    found: dict[str, Any] = {}
    if lower is None:
        found["minimum"] = min(-_LARGEST, _number(upper) - _LARGEST)
    if upper is None:
        found["maximum"] = max(_LARGEST, _number(lower) + _LARGEST)
    return found


def _number(limit: Any) -> float:
    return limit if isinstance(limit, int | float) and abs(limit) < 2**53 else 0


def _any_value(depth: int) -> dict[str, Any]:
    """A schema of any JSON value that is at most `depth` levels deep; needs `_any_values`."""
    return {"$ref": f"#/$defs/{_ANY}{depth}"}


def _any_values() -> dict[str, Any]:
    """What `_any_value` refers to: each depth is described once, however often it is used."""
    plain = [_limited({"type": kind}, [kind]) for kind in ("string", "number", "boolean", "null")]
    found: dict[str, Any] = {f"{_ANY}0": {"anyOf": plain}}
    for depth in range(_DEEPEST):
        items = {"type": "array", "items": _any_value(depth), "maxItems": _MOST_ITEMS}
        entries = {"type": "object", **_entries(_any_value(depth))}
        entries["maxProperties"] = _Most(_MOST_ENTRIES)
        found[f"{_ANY}{depth + 1}"] = {"anyOf": [*plain, items, entries]}
    return found
