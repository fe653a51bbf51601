"""Stores learn in the background, and remember."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rag_backend.knowledge.calibrator import SMALLEST_STORE
from rag_backend.knowledge.embedding import Kind, Vectors
from rag_backend.knowledge.fusion import DENSE_WEIGHT
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Fusion, Store
from tests.rag_backend.knowledge.building import DirectReading, opened_library, put, settled
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding

pytestmark = pytest.mark.usefixtures("storage")

PLACES = "kitchen garden harbour tower market bridge library station museum castle".split()
VIETNAMESE = [
    "Người lao động được hưởng nguyên lương trong thời gian đó.",
    "Công ty đóng tiền cho mọi nhân viên từ tháng đầu tiên.",
    "Nhân viên gửi đơn cho phòng nhân sự trước ba ngày.",
    "Mức hưởng được tính theo số năm làm việc tại công ty.",
]
THINGS = "clock kettle ladder barrel mirror engine blanket lantern hammer compass".split()


class Noise(FakeEmbedding):
    """Random directions: knows nothing of any text."""

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """See EmbeddingProvider."""
        vectors = np.empty((len(texts), 64), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            seed = np.frombuffer(f"{kind}{text}".encode(), dtype=np.uint8)
            row[:] = np.random.default_rng(seed).standard_normal(64)
            row /= np.linalg.norm(row)
        return vectors


class Meaning(FakeEmbedding):
    """Knows "n" and "number-n" for the same, in whatever words."""

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """See EmbeddingProvider."""
        return super().embed(["".join(filter(str.isdigit, text))[:3] for text in texts], kind)


class Held(FakeEmbedding):
    """Lets nobody calibrate until it is told to: queries of more than one text wait."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """See EmbeddingProvider."""
        if kind == "query" and len(texts) > 1:
            self.reached.set()
            assert self.go.wait(60)
        return super().embed(texts, kind)


def shared_words(number: int) -> str:
    """Sentences of one text have words in common that no other text has."""
    here, thing = PLACES[number // 10], THINGS[number % 10]
    return (
        f"The {thing} of the {here} was sold to somebody last year. Nobody saw the {thing} leave "
        f"the {here} at night. A new {thing} came to the {here} in spring."
    )


def no_shared_words(number: int) -> str:
    """Sentences of one text have no word in common, and mean the same."""
    return (
        f"a{number:03} b{number:03} c{number:03} d{number:03} e{number:03}. "
        f"f{number:03} g{number:03} h{number:03} i{number:03} j{number:03}. "
        f"k{number:03} l{number:03} m{number:03} n{number:03} o{number:03}."
    )


async def fill(library: Library, texts: Sequence[str]) -> Store:
    store = await library.store("default")
    for number, text in enumerate(texts):
        await put(library, store, f"{number}.txt", text.encode())
    await settled(library, store)
    await considered(library)
    return await library.store("default")


async def considered(library: Library) -> None:
    async with asyncio.timeout(60):
        while not library.indexer.calibrator.idle:
            await asyncio.sleep(0.01)


async def learnt(folder: Path, embedding: FakeEmbedding, texts: Sequence[str]) -> Fusion:
    async with opened_library(folder, embedding, DirectReading()) as library:
        store = await fill(library, texts)
        return library.catalog.fusion(store)


async def test_noise_is_not_trusted(tmp_path: Path) -> None:
    fusion = await learnt(tmp_path, Noise(), [shared_words(n) for n in range(60)])
    assert fusion.learnt_from == 60
    assert fusion.dense_weight["en"] < 0.05


async def test_meaning_is_trusted_where_words_never_match(tmp_path: Path) -> None:
    fusion = await learnt(tmp_path, Meaning(), [no_shared_words(n) for n in range(60)])
    assert fusion.dense_weight["en"] > DENSE_WEIGHT


async def test_the_same_texts_teach_the_same(tmp_path: Path) -> None:
    texts = [shared_words(n) for n in range(50)]
    one = await learnt(tmp_path / "one", FakeEmbedding(), texts)
    two = await learnt(tmp_path / "two", FakeEmbedding(), texts[::-1])
    assert one.dense_weight == two.dense_weight
    assert one.learnt_from == two.learnt_from


async def test_what_was_learnt_is_kept(tmp_path: Path) -> None:
    known = await learnt(tmp_path, FakeEmbedding(), [shared_words(n) for n in range(50)])
    async with opened_library(tmp_path, Noise("fake"), DirectReading()) as library:
        await considered(library)
        assert library.catalog.fusion(await library.store("default")) == known


async def test_a_tiny_store_keeps_to_the_prior(tmp_path: Path) -> None:
    texts = [shared_words(n) for n in range(SMALLEST_STORE - 2)]
    assert (await learnt(tmp_path, Noise(), texts)).dense_weight == {}


async def test_searches_and_files_do_not_wait_for_it(tmp_path: Path) -> None:
    embedding = Held()
    async with opened_library(tmp_path, embedding, DirectReading()) as library:
        store = await library.store("default")
        for number in range(60):
            await put(library, store, f"{number}.txt", shared_words(number).encode())
        await settled(library, store)
        assert await asyncio.to_thread(embedding.reached.wait, 60)
        assert await library.search(store, "kitchen clock", 3)
        await put(library, store, "late.txt", b"A late file about penguins.")
        await settled(library, store)
        assert (await library.search(store, "penguins", 1))[0].chunk.filename == "late.txt"
        assert not library.indexer.calibrator.idle
        embedding.go.set()
        await considered(library)
        assert library.catalog.fusion(await library.store("default")).learnt_from > 0


async def test_what_was_learnt_goes_with_the_store_and_with_its_vectors(tmp_path: Path) -> None:
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
        store = await fill(library, [shared_words(n) for n in range(60)])
        assert library.catalog.fusion(store).learnt_from > 0
        await library.delete_store(store)
        assert library.catalog.fusion(store) == Fusion(store.collection, 0, {})
        library.catalog.set_fusion(store.id, Fusion(store.collection, 60, {"en": 0.5}))
        assert library.catalog.fusion(store).learnt_from == 0


async def test_a_store_that_takes_in_another_language_learns_again(tmp_path: Path) -> None:
    async with opened_library(tmp_path, Meaning(), DirectReading()) as library:
        store = await fill(library, [no_shared_words(n) for n in range(60)])
        assert set(library.catalog.fusion(store).dense_weight) == {"en"}
        for number in range(40):  # by far not twice as much
            rule = f"Điều {number} quy định về nghỉ phép của nhân viên số {number}."
            text = f"{rule} {VIETNAMESE[number % 4]} Hết phần số {number} của quy định này."
            await put(library, store, f"vi-{number}.txt", text.encode())
        await settled(library, store)
        await considered(library)
        learnt_now = library.catalog.fusion(await library.store("default"))
        assert set(learnt_now.dense_weight) == {"en", "vi", "vi-unaccented"}
        assert learnt_now.learnt_from == 100


async def test_a_store_that_stays_as_it_is_does_not_learn_again(tmp_path: Path) -> None:
    async with opened_library(tmp_path, FakeEmbedding(), DirectReading()) as library:
        store = await fill(library, [shared_words(n) for n in range(60)])
        for number in range(60, 70):
            await put(library, store, f"{number}.txt", shared_words(number).encode())
        await settled(library, store)
        await considered(library)
        assert library.catalog.fusion(await library.store("default")).learnt_from == 60
