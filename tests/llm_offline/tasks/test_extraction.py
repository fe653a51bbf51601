"""Schemas that can say that a value is not there, and what a model makes of them."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.interface import Sampling
from llm_offline.errors import BadRequest, ContextExceeded
from llm_offline.loaded import LoadedModel
from llm_offline.tasks.extraction import Extractor, narrowed, schema_of
from llm_offline.tasks.writing import Writer
from tests.llm_offline.tasks.scripted import scripted

TEXT = "Người đi xe máy không đội mũ bảo hiểm bị phạt 200.000 đồng."


def test_a_simple_map() -> None:
    schema = schema_of(
        {
            "vehicle": "string",
            "fine": "integer: the fine in dong",
            "reason": "why it is paid",
            "paid": "boolean",
            "names": "array",
            "kind": {"enum": ["car", "motorbike"], "description": "of vehicle"},
            "page": {"type": ["integer", "null"], "minimum": 1},
        }
    )
    assert schema["required"] == list(schema["properties"])
    jsonschema.Draft202012Validator.check_schema(schema)
    nothing = dict.fromkeys(schema["properties"])
    jsonschema.validate(nothing, schema)
    said = {"vehicle": "xe máy", "fine": 200000, "reason": "x", "paid": True, "names": ["a"]}
    jsonschema.validate(said | {"kind": "car", "page": 1}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(nothing | {"fine": "200.000"}, schema)
    assert schema["properties"]["fine"]["description"] == "the fine in dong"
    assert schema["properties"]["reason"]["description"] == "why it is paid"
    assert schema["properties"]["kind"]["description"] == "of vehicle"


@pytest.mark.parametrize("wish", [3, None, ["string"], True])
def test_a_map_that_is_none(wish: object) -> None:
    with pytest.raises(BadRequest, match=r"parameters\.fine must be a type"):
        schema_of({"fine": wish})


NULLABLE: dict[str, Any] = {"type": ["string", "null"]}


@pytest.mark.parametrize(
    ("properties", "path"),
    [
        ({"a": {"type": "string"}}, "schema.properties.a"),
        ({"a": NULLABLE, "b": {"enum": [1, 2]}}, "schema.properties.b"),
        (
            {"a": {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]}},
            None,
        ),
        (
            {"a": {"type": "object", "properties": {"b": {"type": "number"}}, "required": ["b"]}},
            "schema.properties.a.properties.b",
        ),
        ({"a": {"$ref": "#/$defs/text"}}, "schema.properties.a"),
        ({"a": {"anyOf": [{"$ref": "#/$defs/text"}, {"type": "null"}]}}, None),
        ({"a": {"type": "array", "items": {"type": "string"}}}, None),
        ({"a": {"type": "array", "minItems": 1}}, "schema.properties.a"),
        ({"a": {"const": "fine"}}, None),
        ({"a": {}}, None),
        ({"a": True}, None),
        ({"a": {"allOf": [NULLABLE, {"type": "string"}]}}, "schema.properties.a"),
    ],
    ids=range(12),
)
def test_a_value_that_is_not_there_must_be_allowed_to_be_null(
    properties: dict[str, Any], path: str | None
) -> None:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "$defs": {"text": {"type": "string"}},
    }
    if path is None:
        narrowed(schema)
        return
    with pytest.raises(BadRequest, match="must allow null") as refused:
        narrowed(schema)
    assert refused.value.param == path


def test_what_is_not_an_objects_schema() -> None:
    for schema in ({}, {"type": "array"}, {"type": ["object", "null"]}):
        with pytest.raises(BadRequest, match="JSON schema of an object"):
            narrowed(schema)
    circle = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]}
    with pytest.raises(BadRequest, match="too deeply"):
        narrowed(circle)
    with pytest.raises(BadRequest, match="parameters are nested too deeply"):
        schema_of({"a": {"$defs": {"b": {"$ref": "#/$defs/b"}}, "$ref": "#/$defs/b"}})


@pytest.mark.parametrize("name", [["a"], {"a": 1}, 5, None])
def test_required_names_that_are_none(loaded: LoadedModel, name: object) -> None:
    """Our own look at the schema lets them be; the grammar refuses them."""
    schema = narrowed({"type": "object", "properties": {"a": {}}, "required": ["a", name]})
    with pytest.raises(BadRequest, match="schema"):
        loaded.grammars.json_schema(schema, param="schema")


def test_a_narrowed_schema_is_whole_and_closed() -> None:
    found = narrowed(
        {
            "type": "object",
            "properties": {"a": NULLABLE, "b": {"type": "string"}, "c": {"$ref": "#/$defs/c"}},
            "$defs": {"c": {"type": "object", "properties": {"d": NULLABLE}}},
        }
    )
    assert found["required"] == ["a"]
    assert found["additionalProperties"] is False
    assert found["$defs"]["c"]["required"] == ["d"]
    entangled = {"type": "object", "properties": {"a": NULLABLE}, "oneOf": [{}]}
    assert narrowed(entangled) == entangled


async def test_a_text_is_asked_for_its_values() -> None:
    writer, engine = scripted(lambda _: '{"fine": 200000}', context=2000)
    schema = narrowed(schema_of({"fine": "integer: the fine"}))
    extractor = Extractor(writer, None, TEXT, schema, source="text")  # type: ignore[arg-type]
    assert [one async for one in extractor.values(None)] == [None, {"fine": 200000}]
    (prompt,) = engine.prompts
    assert prompt.endswith(f"Text:\n{TEXT}")
    assert '"description":"the fine"' in prompt
    assert "null" in prompt


async def test_too_few_tokens_and_too_long_a_text() -> None:
    schema = schema_of({"fine": "integer"})
    writer, _ = scripted(lambda _: '{"fine": 2 }')
    extractor = Extractor(writer, None, TEXT, schema, source="text")  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="not whole after 2 tokens") as refused:
        [one async for one in extractor.values(2)]
    assert refused.value.param == "max_tokens"
    long = Extractor(writer, None, TEXT * 99, schema, source="messages")  # type: ignore[arg-type]
    with pytest.raises(ContextExceeded) as exceeded:
        [one async for one in long.values(None)]
    assert exceeded.value.param == "messages"


def _wish(dice: random.Random) -> Any:
    return dice.choice(
        [
            "integer",
            "number: how much",
            "boolean",
            {"type": "string", "maxLength": dice.randint(0, 20)},
            {"enum": ["đỏ", "xanh", 3]},
            {"type": ["string", "null"], "maxLength": 8},
            {"type": "array", "maxItems": 2, "items": {"type": "integer"}},
            {
                "type": "object",
                "properties": {"số tiền": {"type": ["integer", "null"]}},
            },
            {"anyOf": [{"type": "boolean"}, {"type": "integer"}]},
        ]
    )


async def test_every_output_of_a_random_model_validates(loaded: LoadedModel) -> None:
    dice = random.Random(2)
    engine = ContinuousBatching(
        loaded.network, loaded.text.decode, context=4096, max_queue=100, max_batch=8
    )
    for number in range(60):
        names = dice.sample(["name", "số tiền", "a b", "id", "điều"], dice.randint(1, 4))
        given = schema_of({name: _wish(dice) for name in names})
        if number % 2:
            # As a client may write it: open, and what may be left out not said.
            given = {"type": "object", "properties": given["properties"]}
        schema = narrowed(given)
        sampling = Sampling(temperature=dice.choice([0.0, 1.0, 1.5]), seed=number)
        writer = Writer(loaded.text, engine, context=4096, sampling=sampling)
        grammar = loaded.grammars.json_schema(schema)
        extractor = Extractor(writer, grammar, TEXT, schema, source="text")
        _, found = [one async for one in extractor.values(None)]
        jsonschema.validate(found, given)
        jsonschema.validate(found, schema)
        assert set(names) == set(found or {})
        json.dumps(found)
    engine.stop()
    assert engine.join(10)
