"""Which encoder a store is searched and written with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from rag_backend.errors import Conflict, StartError
from rag_backend.knowledge.embedding import EmbeddingProvider, probe
from rag_backend.knowledge.encoder import EncoderLoader
from rag_backend.knowledge.encoders import Encoders
from rag_backend.knowledge.models import Store
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding

OLD = FakeEmbedding("old", dimension=32)
STORE = Store("vs_1", "laws", 0, 0, {}, 0, 0, True, "old", probe(OLD))


@pytest.fixture
async def present() -> AsyncIterator[EncoderLoader]:
    loader = EncoderLoader(lambda: FakeEmbedding("new"))
    loader.start()
    yield loader
    await loader.stop()


def refuses(model: str) -> EmbeddingProvider:
    raise StartError(f"EMBEDDING_MODEL={model} cannot be loaded.")


async def test_the_present_one_for_its_own_stores_and_for_new_ones(present: EncoderLoader) -> None:
    encoders = Encoders(present, refuses)
    encoder = await present.wait()
    for known in (None, encoder.probe):
        store = replace(STORE, rebuilding=False, embedding_probe=known)
        assert await encoders.for_search(store) is encoder
        assert await encoders.for_writing(store) is encoder


async def test_another_model_is_refused_with_the_command(present: EncoderLoader) -> None:
    encoders = Encoders(present, lambda _: OLD)
    store = replace(STORE, rebuilding=False)
    for ask in (encoders.for_search, encoders.for_writing):
        with pytest.raises(Conflict, match="ingest rebuild --store laws") as raised:
            await ask(store)
        assert raised.value.code == "embedding_model_changed"


async def test_the_earlier_one_while_the_store_is_re_embedded(present: EncoderLoader) -> None:
    loaded: list[str] = []

    def load(model: str) -> EmbeddingProvider:
        loaded.append(model)
        return OLD

    encoders = Encoders(present, load)
    for ask in (encoders.for_search, encoders.for_writing, encoders.for_search):
        found = await ask(STORE)
        assert found is not None
        assert found.embedding is OLD
    assert loaded == ["old"]
    await encoders.keep_only([STORE])
    await encoders.for_search(STORE)
    assert loaded == ["old"]
    await encoders.keep_only([replace(STORE, rebuilding=False)])
    await encoders.for_search(STORE)
    assert loaded == ["old", "old"]
    await encoders.stop()


@pytest.mark.parametrize("load", [refuses, lambda _: FakeEmbedding("imposter", 32)])
async def test_words_alone_where_it_cannot_be_had_any_more(
    present: EncoderLoader,
    load: Callable[[str], EmbeddingProvider],
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoders = Encoders(present, load)
    for _ in range(3):
        assert await encoders.for_search(STORE) is None
        assert await encoders.for_writing(STORE) is None
    assert caplog.text.count("'laws' is searched by words alone") == 1
    await encoders.stop()
