"""What nobody expected: OpenAI's envelope under the request's id, and a traceback in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from llm_offline.api.sse import EventStream
from llm_offline.app import create_app
from llm_offline.settings import Settings
from tests.llm_offline.puppets import PuppetLoader, Text

SECRET = "sk-a-secret"
ENVELOPE = {"type": "server_error", "param": None, "code": None}
MESSAGES = [{"role": "user", "content": "hi"}]


def _broken_encoder() -> Any:
    raise ZeroDivisionError(SECRET)


@asynccontextmanager
async def _serving() -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The application with its model there, and a client of it."""
    settings = Settings(_env_file=None, model="puppet")  # type: ignore[call-arg]
    app, parts = create_app(settings, PuppetLoader(), _broken_encoder)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://server") as client,
        asyncio.timeout(60),
    ):
        await parts.serving.wait(60)
        yield app, client


def _is_told(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert answer.status_code == 500
    assert error.pop("message").startswith("internal error: the server's log has the details")
    assert error == ENVELOPE
    assert answer.headers["x-request-id"] == "mine"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/generate", {"prompt": "hi"}),
        ("/tokenize", {"text": "hi"}),
        ("/compress", {"passages": ["Some words. And more."], "question": "which?"}),
        ("/extract-parameters", {"text": "hi", "parameters": {"a": "integer"}}),
        ("/v1/embeddings", {"input": "hi"}),
    ],
)
async def test_a_defect_in_any_route(
    path: str,
    body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError(SECRET)

    async with _serving() as (_, client):
        monkeypatch.setattr(Text, "encode", broken)
        answer = await client.post(path, json=body, headers={"x-request-id": "mine"})
    _is_told(answer)
    assert SECRET not in answer.text
    assert "request mine failed" in caplog.text
    assert "Traceback" in caplog.text


async def test_a_defect_before_the_first_byte_and_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            yield b"data: {}\n\n"
            raise ZeroDivisionError(SECRET)

        async def free() -> None: ...

        if request.query_params:
            return EventStream(events(), free)
        raise ZeroDivisionError(SECRET)

    async with _serving() as (app, client):
        app.add_route("/fails", fails)
        headers = {"x-request-id": "mine"}
        _is_told(await client.get("/fails", headers=headers))
        streamed = await client.get("/fails?stream=1", headers=headers)
        new = (await client.get("/fails")).headers["x-request-id"]
    assert new.startswith("req_")
    assert (streamed.status_code, streamed.headers["x-request-id"]) == (200, "mine")
    first, error, done = streamed.text.strip().split("\n\n")
    assert (first, done) == ("data: {}", "data: [DONE]")
    assert '"error":{"message":"internal error: the server\'s log has' in error
    assert SECRET not in streamed.text
    assert "request mine failed in its stream" in caplog.text


async def test_a_request_that_is_cut_off_at_the_end_is_told() -> None:
    """What uvicorn cancels once it has waited long enough."""
    begun, sent = asyncio.Event(), list[Any]()

    async def endless(_: Request) -> Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    async with _serving() as (app, _):
        app.add_route("/endless", endless)
        scope = {"type": "http", "method": "GET", "path": "/endless", "headers": []}
        answering = asyncio.ensure_future(app({**scope, "query_string": b""}, receive, send))
        await begun.wait()
        answering.cancel()
        await answering
    assert sent[0]["status"] == 503
    assert b'"code":"shutting_down"' in sent[1]["body"]


async def test_a_client_that_leaves_in_its_body_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    async with _serving() as (app, _):
        scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": []}
        await app({**scope, "query_string": b""}, receive, send)
    assert "failed" not in caplog.text
