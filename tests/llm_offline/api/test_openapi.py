"""The description of bodies stands alone."""

from __future__ import annotations

import json

from llm_offline.api.openapi import takes
from llm_offline.api.parameters import ChatBody


def test_no_reference_is_left() -> None:
    described = takes(ChatBody)
    assert "$ref" not in json.dumps(described)
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["messages"]
    options = schema["properties"]["stream_options"]["anyOf"][0]
    assert "include_usage" in options["properties"]
