"""The encoder while it loads, and after."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from rag_backend.errors import Conflict, StartError, Starting, UpstreamUnavailable
from rag_backend.knowledge import encoder as module
from rag_backend.knowledge.embedding import EmbeddingProvider, Kind, Vectors, probe
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


class Away(FakeEmbedding):
    """A server that is away until `back` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.back = threading.Event()
        self.closed = False

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        if not self.back.is_set():
            raise UpstreamUnavailable("The embedding server cannot be reached: start it.")
        return super().embed(texts, kind)

    def close(self) -> None:
        self.closed = True


async def test_a_server_that_is_away_is_waited_for() -> None:
    away = Away()
    loader = EncoderLoader(lambda: away, again=0.001)
    loader.start()
    with pytest.raises(Starting, match="cannot be reached: start it"):
        await loader.first_word()
    with pytest.raises(Starting, match="cannot be reached: start it"):
        await loader.get()
    assert not loader.ready
    away.back.set()
    encoder = await loader.wait()
    assert (loader.ready, loader.problem) == (True, None)
    assert await loader.first_word() is encoder
    await loader.stop()
    assert away.closed


async def test_stopping_ends_the_wait_for_a_server() -> None:
    away = Away()
    loader = EncoderLoader(lambda: away, again=3600)
    loader.start()
    with pytest.raises(Starting):
        await loader.first_word()
    await loader.stop()
    assert away.closed
