"""`/v1/embeddings` as JSON, whatever the language model does meanwhile."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import httpx
import pytest

from llm_offline.app import create_app
from llm_offline.settings import Settings
from tests.llm_offline.puppets import PuppetLoader

EMBEDDINGS = "/v1/embeddings"
ROW = (0.1, -1.0, 1e-30, 3.4028235e38, 1 / 3)
PACKED = struct.pack("<5f", *ROW)


@dataclass(frozen=True)
class Vectors:
    vectors: Sequence[bytes]
    tokens: int


class FakeEncoder:
    """Every text has the same vector."""

    name, device, dimensions = 'an "encoder"', "cpu", 5
    max_input_tokens = 254

    async def encode(self, texts: Sequence[str]) -> Vectors:
        return Vectors([PACKED] * len(texts), len(texts))

    def stop(self) -> None:
        """It has no threads."""

    def join(self, seconds: float) -> bool:
        return True


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Of a server whose model never comes."""
    app, _ = create_app(Settings(_env_file=None), PuppetLoader(), FakeEncoder)  # type: ignore[call-arg]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_it_answers_while_the_model_is_loading(client: httpx.AsyncClient) -> None:
    assert (await client.post(EMBEDDINGS, json={"input": "a"})).status_code == 200
    health = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "loading")
    assert health.json()["embeddings"]["status"] == "ready"


async def test_floats_are_those_of_base64(client: httpx.AsyncClient) -> None:
    found = (await client.post(EMBEDDINGS, json={"input": ["a"] * 40})).json()
    assert [row["index"] for row in found["data"]] == list(range(40))
    assert found["model"] == 'an "encoder"'
    assert found["usage"] == {"prompt_tokens": 40, "total_tokens": 40}
    assert found["max_input_tokens"] == 254
    for row in found["data"]:
        assert struct.pack("<5f", *row["embedding"]) == PACKED
    body = {"input": "a", "encoding_format": "base64"}
    packed = (await client.post(EMBEDDINGS, json=body)).json()["data"][0]["embedding"]
    assert base64.b64decode(packed) == PACKED


async def test_dimensions_are_refused_before_anything_is_computed(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(FakeEncoder, "encode")
    answer = await client.post(EMBEDDINGS, json={"input": "a", "dimensions": 4})
    assert answer.status_code == 400
    assert 'dimensions=4: an "encoder" gives 5' in answer.json()["error"]["message"]
