"""Keys, and what goes into log and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from rag_backend.api import failures
from rag_backend.api.middleware import RequestMiddleware
from rag_backend.metrics import Metrics
from tests.rag_backend.api.serving import Running
from tests.rag_backend.api.test_refusals import refused


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def guarded(metrics: Metrics) -> Iterator[httpx.Client]:
    app = FastAPI()

    @app.get("/v1/secret")
    async def secret() -> str:
        return "told"

    @app.get("/health")
    async def health() -> str:
        return "ok"

    failures.install(app)
    app.add_middleware(RequestMiddleware, keys=["first-key", "second-key"], metrics=metrics)
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic first-key", "first-key", "Bearer first"],
)
def test_a_missing_or_wrong_key(guarded: httpx.Client, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    error = refused(guarded.get("/v1/secret", headers=headers), 401)
    assert error["code"] == "invalid_api_key"
    assert "first-key" not in error["message"]


@pytest.mark.parametrize("header", ["Bearer first-key", "bearer  first-key ", "Bearer second-key"])
def test_a_right_key(guarded: httpx.Client, header: str) -> None:
    headers = {"authorization": header.encode()}
    assert guarded.get("/v1/secret", headers=headers).json() == "told"


def test_paths_that_need_no_key(guarded: httpx.Client) -> None:
    assert guarded.get("/health").status_code == 200
    refused(guarded.get("/metrics"), 401)
    refused(guarded.get("/v1/unknown"), 401)


def test_metrics_know_routes_not_paths(guarded: httpx.Client, metrics: Metrics) -> None:
    headers = {"authorization": "Bearer first-key"}
    guarded.get("/v1/secret", headers=headers)
    guarded.get("/v1/made-up-by-a-client", headers=headers)
    shown = metrics.exposition().decode()
    assert 'rag_requests_total{route="/v1/secret",status="200"} 1.0' in shown
    assert 'rag_requests_total{route="unknown",status="404"} 1.0' in shown
    assert "made-up" not in shown


def test_one_line_a_request(guarded: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rag_backend.requests"):
        guarded.get("/health%0A2026-01-01%20INFO%20forged?key=secret")
    (line,) = [r.getMessage() for r in caplog.records if r.name == "rag_backend.requests"]
    assert "\n" not in line
    assert "secret" not in line


def test_the_sdk_sends_its_key(backend: Running) -> None:
    """A key that nobody asked for is no error."""
    with backend.sdk("sk-anything") as client:
        assert client.models.list().data


async def test_a_request_that_the_stopping_server_cuts_off(metrics: Metrics) -> None:
    begun = asyncio.Event()
    sent: list[Any] = []

    async def endless(_scope: object, _receive: object, _send: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": "/health", "headers": []}
    middleware = RequestMiddleware(endless, keys=(), metrics=metrics)
    serving = asyncio.create_task(middleware(scope, receive, send))
    await begun.wait()
    serving.cancel()
    await serving
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["error"]["code"] == "stopping"
