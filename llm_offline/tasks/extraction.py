"""Values out of a text, as JSON of a schema that can say "not there"."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from llm_offline.engine.interface import Grammar
from llm_offline.errors import BadRequest, ContextExceeded
from llm_offline.tasks import prompts
from llm_offline.tasks.writing import Writer

Schema = dict[str, Any]

_TYPES = ("string", "integer", "number", "boolean", "array", "object")
_TYPED = re.compile(rf"({'|'.join(_TYPES)})\s*(?::\s*(.*))?", re.DOTALL)
_LONGEST = 1000
_MOST_NESTED = 100
# Beside these, a list of properties says only a part of what an object may have.
_COMBINING = frozenset({"anyOf", "$ref", "patternProperties", "dependentSchemas"})
# Where one of these stands, narrowing one schema may widen another.
_ENTANGLING = ("allOf", "oneOf", "not", "if", "unevaluatedProperties")


def schema_of(parameters: Mapping[str, Any]) -> Schema:
    """The schema of a simple map; each value may be null.

    Args:
        parameters: For each name a type ("integer"), a type and a description ("integer: the
            fine in dong"), a description alone (text is meant), or a JSON schema.

    Raises:
        BadRequest: A value is none of these, or a schema that refers to itself alone.
    """
    try:
        properties = {name: _property(name, wish) for name, wish in parameters.items()}
    except RecursionError as error:
        raise BadRequest("parameters are nested too deeply", param="parameters") from error
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _property(name: str, wish: object) -> Schema:
    if isinstance(wish, str):
        typed = _TYPED.fullmatch(wish.strip())
        found = _simple(typed[1] if typed else "string")
        described = (typed[2] if typed else wish) or ""
        return {"description": described.strip()} | found if described.strip() else found
    if not isinstance(wish, dict):
        raise BadRequest(
            f"parameters.{name} must be a type ({', '.join(_TYPES)}), a description, both "
            '("integer: the fine"), or a JSON schema',
            param=f"parameters.{name}",
        )
    if _may_be_null(wish, wish, 0):
        return dict(wish)
    inner = {key: value for key, value in wish.items() if key != "description"}
    told = {"description": wish["description"]} if "description" in wish else {}
    return told | {"anyOf": [inner, {"type": "null"}]}


def _simple(kind: str) -> Schema:
    found: Schema = {"type": [kind, "null"]}
    if kind == "string":
        found["maxLength"] = _LONGEST
    if kind == "array":
        found["items"] = {"type": "string", "maxLength": _LONGEST}
    return found


def narrowed(schema: Mapping[str, Any]) -> Schema:
    """A schema that accepts no more than the given one, and whose texts say what is not there.

    Properties that may be null are written, as null at least; objects have no other properties
    than those that are named.

    Raises:
        BadRequest: It is not an object's, or a value that must be there may not be null.
    """
    if schema.get("type") != "object":
        raise BadRequest(
            'schema must be the JSON schema of an object: {"type": "object", "properties": ...}',
            param="schema",
        )
    try:
        forced = _forced(schema, schema, 0)
        written = json.dumps(schema)
        entangled = any(f'"{name}"' in written for name in _ENTANGLING)
        found = dict(schema) if entangled else _closed(schema, schema, 0)
    except RecursionError as error:
        raise BadRequest("schema is nested too deeply", param="schema") from error
    if forced is not None:
        path = ".".join(["schema", *forced])
        raise BadRequest(
            f"{path} must allow null, which stands for a value that the text does not give, such "
            f'as {{"type": ["string", "null"]}}; or leave {forced[-1]} out of "required"',
            param=path,
        )
    return found


def _forced(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> list[str] | None:
    """The path of a value that would have to be made up; None if there is none."""
    properties = schema.get("properties")
    required = schema.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return None
    # What is no name, the grammar's own check finds.
    for name in (one for one in required if isinstance(one, str)):
        inner = _resolved(properties.get(name), root, depth)
        if not isinstance(inner, dict) or _may_be_null(inner, root, depth + 1):
            continue
        if _is_object(inner):
            deeper = _forced(inner, root, depth + 1)
            if deeper is not None:
                return ["properties", name, *deeper]
        elif not _may_be_empty(inner):
            return ["properties", name]
    return None


def _may_be_null(schema: object, root: Mapping[str, Any], depth: int) -> bool:
    schema = _resolved(schema, root, depth)
    if not isinstance(schema, dict):
        return schema is not False
    if "const" in schema:
        return True  # nothing to make up
    if "enum" in schema:
        return isinstance(schema["enum"], list) and None in schema["enum"]
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list):
            return any(_may_be_null(one, root, depth + 1) for one in schema[name])
    if isinstance(schema.get("allOf"), list):
        return all(_may_be_null(one, root, depth + 1) for one in schema["allOf"])
    kind = schema.get("type")
    return kind is None or kind == "null" or (isinstance(kind, list) and "null" in kind)


def _is_object(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object" and isinstance(schema.get("properties"), dict)


def _may_be_empty(schema: Mapping[str, Any]) -> bool:
    """A list or a map without entries says that there is nothing, too."""
    if schema.get("type") == "array":
        return not schema.get("minItems") and not schema.get("prefixItems")
    return schema.get("type") == "object" and not schema.get("minProperties")


def _resolved(schema: object, root: Mapping[str, Any], depth: int) -> object:
    """What a local reference names; what it is not found is left to the grammar's own check."""
    if depth > _MOST_NESTED:
        raise RecursionError
    if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
        return schema
    found: object = root
    for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
        found = found.get(step) if isinstance(found, Mapping) else None
    return _resolved(found, root, depth + 1)


def _closed(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Schema:
    """See `narrowed`; for a schema whose parts need not know each other."""
    if depth > _MOST_NESTED:
        raise RecursionError

    def closed(one: object) -> object:
        return _closed(one, root, depth + 1) if isinstance(one, dict) else one

    found = dict(schema)
    for name in ("$defs", "definitions"):
        if isinstance(found.get(name), dict):
            found[name] = {key: closed(one) for key, one in found[name].items()}
    properties = found.get("properties")
    if isinstance(properties, dict):
        found["properties"] = {name: closed(one) for name, one in properties.items()}
        if not found.keys() & _COMBINING:
            found.setdefault("additionalProperties", False)
            found["required"] = _required(found, root, depth)
        return found  # what an anyOf beside properties says, it says of them
    if isinstance(found.get("anyOf"), list):
        found["anyOf"] = [closed(one) for one in found["anyOf"]]
    if "items" in found:
        found["items"] = closed(found["items"])
    return found


def _required(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> list[str]:
    """The properties that an object must have, and those that can be null if they are not there."""
    given = schema.get("required")
    required = list(given) if isinstance(given, list) else []
    return required + [
        name
        for name, one in schema["properties"].items()
        if name not in required and _may_be_null(one, root, depth + 1)
    ]


class Extractor:
    """Extracts the values of one request."""

    def __init__(
        self, writer: Writer, grammar: Grammar, text: str, schema: Schema, *, source: str
    ) -> None:
        """`grammar`: of `schema`; `source`: the request's field that has the text, for errors."""
        self._writer = writer
        self._grammar = grammar
        self._text = text
        self._schema = schema
        self._source = source

    async def values(self, max_tokens: int | None) -> AsyncGenerator[Schema | None, None]:
        """None once the work is admitted, then the JSON object.

        Raises:
            BadRequest: `max_tokens` are too few.
            ContextExceeded: The text is too long: a value could stand in any part of it.
        """
        asked = prompts.extraction(self._text, self._schema)
        prompt = await self._writer.aside(self._writer.encode, asked)
        if len(prompt) >= self._writer.context:
            raise ContextExceeded(len(prompt), self._writer.context, param=self._source)
        generation = self._writer.admit(prompt, max_tokens=max_tokens, grammar=self._grammar)
        yield None
        text, ended = await self._writer.whole(generation)
        if not ended:
            raise BadRequest(
                f"the JSON was not whole after {self._writer.used.completion_tokens} tokens: raise "
                "max_tokens, shorten the text, or limit the schema (maxLength, maxItems)",
                param="max_tokens",
                code="incomplete_json",
            )
        found: Schema = json.loads(text)
        yield found
