"""JSON that a model of random weights writes: always whole, always of its schema."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.grammar import bounded
from llm_offline.engine.interface import GenerationRequest, Sampling
from llm_offline.errors import BadRequest
from llm_offline.loaded import LoadedModel


def _schema(dice: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random schema whose texts are short."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "nullable"]
    if depth < 3:
        kinds += ["object", "object", "array", "anyOf"]
    kind = "object" if depth == 0 else dice.choice(kinds)
    if kind == "object":
        names = dice.sample(["name", "số tiền", "a b", "id", "x1", "điều"], dice.randint(1, 4))
        return {
            "type": "object",
            "properties": {name: _schema(dice, depth + 1) for name in names},
            "required": dice.sample(names, dice.randint(0, len(names))),
            "additionalProperties": False,
        }
    if kind == "array":
        least = dice.randint(0, 2)
        items = _schema(dice, depth + 1)
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + 2}
    if kind == "anyOf":
        return {"anyOf": [_schema(dice, depth + 1) for _ in range(2)]}
    simple: dict[str, dict[str, Any]] = {
        "string": {"type": "string", "maxLength": dice.randint(0, 20)},
        "integer": dice.choice([{"type": "integer"}, {"type": "integer", "minimum": 3}]),
        "number": {"type": "number"},
        "enum": {"enum": ["đỏ", "xanh", 3, None]},
        "nullable": {"type": ["string", "null"], "maxLength": 8},
    }
    return simple.get(kind, {"type": kind})


async def test_every_text_is_json_of_its_schema(loaded: LoadedModel) -> None:
    dice = random.Random(1)
    schemas = [_schema(dice) for _ in range(200)]
    engine = ContinuousBatching(
        loaded.network, loaded.text.decode, context=4096, max_queue=200, max_batch=16
    )
    prompt = tuple(loaded.text.encode("Xin chào"))
    generations = [
        engine.generate(
            GenerationRequest(
                prompt,
                Sampling(temperature=dice.choice([0.0, 1.0, 1.5]), seed=number),
                grammar=loaded.grammars.json_schema(schema),
            )
        )
        for number, schema in enumerate(schemas)
    ]
    for schema, generation in zip(schemas, generations, strict=True):
        text = "".join([delta.text async for delta in generation])
        jsonschema.validate(json.loads(text), schema)
    engine.stop()
    assert engine.join(10)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "wizard"}, "Invalid type"),
        ({"type": "object", "properties": 3}, "properties must be an object"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"$ref": "#"}, "no text can follow"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"a": object()}, "not a JSON schema"),
    ],
)
def test_a_schema_that_cannot_be_used(
    loaded: LoadedModel, schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadRequest, match=reason) as refused:
        loaded.grammars.json_schema(schema)
    assert "\n" not in str(refused.value)


def test_a_schema_that_is_too_deep(loaded: LoadedModel) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(500):
        schema = {"type": "array", "items": schema}
    with pytest.raises(BadRequest, match="too deeply"):
        loaded.grammars.json_schema(schema)


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
