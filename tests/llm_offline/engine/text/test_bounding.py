"""Which limits a schema gets; `test_grammar` holds that every text then comes to an end."""

from __future__ import annotations

from llm_offline.engine.text.bounding import bounded


def test_limits_where_there_are_none() -> None:
    assert bounded({"type": "string"})["maxLength"] == 4000
    assert bounded({"type": "string", "maxLength": 9})["maxLength"] == 9
    assert "maxLength" not in bounded({"type": "string", "pattern": "a"})
    assert bounded({"type": "array", "items": {"type": "integer"}})["items"]["maximum"] == 10**15
    free = bounded({"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}})
    assert free["additionalProperties"]["$ref"].removeprefix("#/$defs/") in free["$defs"]
    assert free["properties"]["a"]["maximum"] >= 10**15
    assert "maxProperties" not in free  # "a" may be left out
    assert bounded({"type": "object"})["maxProperties"] == 100
    assert bounded({"minLength": 3})["maxItems"] == 1000
    assert bounded({"not": {"type": "string"}})["not"] == {"type": "string"}
    assert bounded({"enum": [1]}) == {"enum": [1]}
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    assert bounded(closed) == closed


def test_entries_are_not_counted_where_descriptions_meet() -> None:
    """llguidance refuses a count beside a name that may be left out."""
    either = {"type": "object", "properties": {"a": {}}, "anyOf": [{"required": ["a"]}]}
    assert "maxProperties" not in str(bounded(either))
    asked = {"type": "object", "required": ["a"], "maxProperties": 3}
    assert bounded(either | {"anyOf": [asked]})["anyOf"][0]["maxProperties"] == 3
    assert "maxProperties" not in str(bounded({"allOf": [either, {"type": "object"}]}))
    assert bounded({"anyOf": [{"type": "object"}]})["anyOf"][0]["maxProperties"] == 100
