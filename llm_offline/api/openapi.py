"""What `/openapi.json` says of bodies that this package reads itself."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """An operation's description of its JSON body."""
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
