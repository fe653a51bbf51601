"""Text or JSON."""

from __future__ import annotations

import pytest

from rag_backend.api.accepting import prefers_json

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,*/*;q=0.8", False),
        (PROMETHEUS, False),
        ("application/json", True),
        ("Application/JSON; q=0.5", True),
        ("application/json, text/plain, */*", False),
        ("application/json, text/plain;q=0.9, */*;q=0.1", True),
        ("application/json;q=0.2, text/plain;q=0.9", False),
        ("application/json;q=0", False),
        ("application/json;q=nonsense", False),
        ("application/*, text/plain;q=0.1, application/openmetrics-text;q=0", True),
        (",;,", False),
    ],
)
def test_the_weight_decides(accept: str, json: bool) -> None:
    assert prefers_json(accept) is json
