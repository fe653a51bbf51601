"""The server ends while a model is being loaded, tried or unloaded: all who wait are told."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.llm_offline.puppets import PuppetLoader, served


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
    async with served(loader) as (client, parts):
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
