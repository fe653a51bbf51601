"""The encoder while it loads, and after."""

from __future__ import annotations

import threading

import pytest

from rag_backend.errors import Conflict, StartError, Starting
from rag_backend.knowledge import encoder as module
from rag_backend.knowledge.embedding import EmbeddingProvider, probe
from rag_backend.knowledge.encoder import Encoder, EncoderLoader
from rag_backend.knowledge.models import Store
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding


async def test_requests_wait_a_little_and_are_told_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    allowed = threading.Event()

    def slowly() -> EmbeddingProvider:
        allowed.wait()
        return FakeEmbedding()

    loader = EncoderLoader(slowly)
    loader.start()
    before = loader.ready
    with pytest.raises(Starting) as raised:
        await loader.get()
    assert raised.value.headers() == {"retry-after": "3"}
    allowed.set()
    encoder = await loader.wait()
    assert (before, loader.ready) == (False, True)
    assert await loader.get() is encoder
    await loader.stop()


async def test_a_failure_reaches_everybody_who_waits() -> None:
    def fails() -> EmbeddingProvider:
        raise StartError("EMBEDDING_MODEL=x cannot be loaded.")

    loader = EncoderLoader(fails)
    loader.start()
    for _ in range(2):
        with pytest.raises(StartError, match="EMBEDDING_MODEL=x"):
            await loader.get()
    assert not loader.ready
    await loader.stop()


async def test_an_encoder_that_was_not_started() -> None:
    loader = EncoderLoader(FakeEmbedding)
    assert not loader.ready
    with pytest.raises(StartError, match="not started"):
        await loader.wait()
    await loader.stop()


def store(model: str | None, fingerprint: bytes | None) -> Store:
    return Store("vs_1", "main", 0, 0, {}, 0, 0, False, model, fingerprint)


def test_a_store_of_another_model_is_refused_with_the_remedy() -> None:
    one, other = FakeEmbedding("one"), FakeEmbedding("other")
    encoder = Encoder(one, probe(one))
    encoder.check(store(None, None))
    encoder.check(store("one, renamed", probe(one)))
    with pytest.raises(Conflict, match="ingest rebuild --store main") as raised:
        encoder.check(store("other", probe(other)))
    assert raised.value.code == "embedding_model_changed"
