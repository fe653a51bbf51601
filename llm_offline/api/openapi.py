"""What `/openapi.json` says of bodies that this package reads itself, and of its own answers."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """An operation's description of its JSON body."""
    schema = body.model_json_schema()
    whole = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": whole}}}}


def gives(answer: type[BaseModel], *, streamed: bool = False) -> dict[int | str, dict[str, Any]]:
    """An operation's description of its answer; `streamed`: events in its place, if asked for."""
    described: dict[str, Any] = {"model": answer, "description": inspect.getdoc(answer) or ""}
    if streamed:
        described["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    return {200: described}


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """`node` with references replaced by what they name: an operation has no place for them."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(value, definitions) for name, value in node.items()}
