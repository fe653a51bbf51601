"""What `/openapi.json` says of bodies that this package reads itself."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """An operation's description of its JSON body."""
    schema = body.model_json_schema()
    whole = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": whole}}}}


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """`node` with references replaced by what they name: an operation has no place for them."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(value, definitions) for name, value in node.items()}
