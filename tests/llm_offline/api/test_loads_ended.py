"""The server ends while a model is being loaded, tried or unloaded: all who wait are told."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from llm_offline.app import create_app
from llm_offline.settings import Settings
from tests.llm_offline.puppets import PuppetLoader


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/load", {"model": "new", "stream": True}),
        ("/v1/models/load", {"model": "new", "stream": False}),
        ("/validate-model", {"model": "new"}),
    ],
)
async def test_the_end_in_a_load(path: str, body: dict[str, Any]) -> None:
    loader = PuppetLoader()
    gate = loader.gates["new"] = threading.Event()
    settings = Settings(_env_file=None, model="old")  # type: ignore[call-arg]
    app, parts = create_app(settings, loader)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client,
        asyncio.timeout(20),
    ):
        while parts.serving.here is None or parts.serving.coming:
            await asyncio.sleep(0.005)
        asking = asyncio.ensure_future(client.post(path, json=body))
        while "new" not in loader.loads:
            await asyncio.sleep(0.005)
        parts.stop()
        answer = await asking
        gate.set()
    if body.get("stream"):
        *_, error, done = answer.text.strip().split("\n\n")
        assert '"code":"shutting_down"' in error
        assert done == "data: [DONE]"
    else:
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "shutting_down"
