"""The OpenAPI document is valid and true: whatever is sent, what comes back is documented."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from rag_backend.settings import Settings
from tests.rag_backend.api.serving import HANDBOOK, PATIENCE, Running, fill, serving

BOUNDED = settings(
    max_examples=25,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A backend of its own, since its documents are changed at random; no model, no key."""
    folder = tmp_path_factory.mktemp("openapi")
    keyless = Settings(
        _env_file=None, data_dir=folder, llm_provider="extractive", max_file_mb=1, max_body_mb=1
    )
    with serving(keyless) as running:
        fill(running, {"handbook.md": HANDBOOK})
        yield running


@pytest.fixture
def document(alone: Running) -> Any:
    """Its document, for schemathesis."""
    return schemathesis.openapi.from_dict(alone.app.openapi())


def test_the_document_is_valid(document: Any) -> None:
    document.validate()


def test_every_operation_says_what_it_answers_and_how_it_fails(alone: Running) -> None:
    for path, methods in alone.app.openapi()["paths"].items():
        for method, operation in methods.items():
            told = operation["responses"]
            assert "422" not in told
            if path == "/health":
                continue
            assert {"401", "403"} <= told.keys(), (method, path)
            for status, response in told.items():
                if status >= "400":
                    (kind,) = response["content"].values()
                    assert kind["schema"] == {"$ref": "#/components/schemas/ErrorEnvelope"}
                assert response["content"], (method, path, status)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_what_comes_back_is_documented(document: Any, alone: Running, mode: Any) -> None:
    """Valid and invalid requests made from the document; the same ones every time."""
    for found in document.get_all_operations():
        operation = found.ok()
        if operation.path.endswith("/rebuild"):
            continue  # it goes on in the background, for as long as it likes

        @seed(4)
        @BOUNDED
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: Any) -> None:
            case.call_and_validate(base_url=alone.url, checks=CHECKS, timeout=PATIENCE)

        with contextlib.suppress(Unsatisfiable):  # without parameters nothing can be invalid
            holds()
