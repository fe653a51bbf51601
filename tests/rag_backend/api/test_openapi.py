"""The OpenAPI document is valid and true: whatever is sent, what comes back is documented."""

from __future__ import annotations

import contextlib
from collections import Counter
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
    max_examples=40,
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
            if path in ("/health", "/health/ready"):
                continue
            assert {"401", "403"} <= told.keys(), (method, path)
            for status, response in told.items():
                if status >= "400":
                    (kind,) = response["content"].values()
                    assert kind["schema"] == {"$ref": "#/components/schemas/ErrorEnvelope"}
                assert response["content"], (method, path, status)


def handbook(alone: Running) -> str:
    """The id of a file in the default store."""
    with alone.sdk() as client:
        return client.vector_stores.files.list("default", order="asc").data[0].id


def tried(operation: Any, mode: Any, there: dict[str, str], url: str) -> Counter[int]:
    """Ask in many ways; how many answers of each class of statuses there were."""
    seen: Counter[int] = Counter()
    # Of what is deleted, of what is invalid on purpose, and of made-up ids most does not exist.
    known = there if mode is GenerationMode.POSITIVE and operation.method != "delete" else {}

    @seed(4)
    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        case.path_parameters.update({k: known[k] for k in case.path_parameters if k in known})
        answer = case.call_and_validate(base_url=url, checks=CHECKS, timeout=PATIENCE)
        seen[answer.status_code // 100] += 1

    with contextlib.suppress(Unsatisfiable):  # without parameters nothing can be invalid
        holds()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_what_comes_back_is_documented(document: Any, alone: Running, mode: Any) -> None:
    """Valid and invalid requests made from the document; the same ones every time."""
    there = {"vector_store_id": "default", "file_id": handbook(alone), "name": "extractive"}
    seen: Counter[int] = Counter()
    for found in document.get_all_operations():
        operation = found.ok()
        # A rebuild goes on for as long as it likes, and 503 is an answer of readiness.
        if not operation.path.endswith(("/rebuild", "/health/ready")):
            seen += tried(operation, mode, there, alone.url)
    assert seen[2] > 100 if mode is GenerationMode.POSITIVE else seen[4] > 300, seen
