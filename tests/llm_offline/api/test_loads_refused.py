"""A load that is refused over the API says so in the API's words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from llm_offline.api.models import LoadBody
from llm_offline.errors import StartError
from llm_offline.fitting import Need
from llm_offline.progress import Progress
from llm_offline.settings import Settings
from tests.llm_offline.puppets import PuppetLoader, served


class _Short(PuppetLoader):
    """Whose models were made for 100 tokens."""

    def weigh(self, settings: Settings, progress: Progress) -> Need:
        if (settings.max_context or 0) > 100:
            raise StartError("--max-context is too much; see --model X", param="max_context")
        return super().weigh(settings, progress)


@asynccontextmanager
async def _client() -> AsyncIterator[httpx.AsyncClient]:
    async with served(_Short()) as (client, parts):
        yield client
        parts.stop()


async def test_too_large_a_context() -> None:
    wanted: dict[str, Any] = {"model": "new", "max_context": 1000}
    async with _client() as client:
        plain = await client.post("/v1/models/load", json={**wanted, "stream": False})
        streamed = await client.post("/v1/models/load", json=wanted)
        report = await client.post("/validate-model", json=wanted)
    error = plain.json()["error"]
    assert plain.status_code == 400
    assert error["message"] == "max_context is too much; see model X"
    assert (error["param"], error["code"]) == ("max_context", "load_failed")
    *_, event, _ = streamed.text.strip().split("\n\n")
    assert json.loads(event.removeprefix("data: "))["error"] == error
    assert report.json()["problems"] == [error["message"]]


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("--model x: no folder; --revision", "model x: no folder; revision"),
        ("or --quantization int8 (1 GiB)", "or quantization int8 (1 GiB)"),
        ("raise --kv-memory", "raise --kv-memory"),  # the operator's alone
        ("/a/--model is --model-like", "/a/--model is --model-like"),
    ],
)
def test_flags_that_are_fields(sentence: str, told: str) -> None:
    refused = LoadBody().refusal(StartError(sentence))
    assert (str(refused), refused.param) == (told, "model")


def test_what_the_request_did_not_say() -> None:
    refused = LoadBody(model="x").refusal(StartError("--max-context 9 is", param="max_context"))
    assert str(refused) == (
        "max_context 9 is (it is the server's --max-context: send another max_context)"
    )
