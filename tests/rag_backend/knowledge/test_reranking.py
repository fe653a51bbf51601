"""The optional cross-encoder: one contract for a real one and a fake, and life without it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from rag_backend.errors import StartError
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.reranking import (
    RERANKED,
    Reranker,
    Reranking,
    RerankingFailed,
    check_reranker,
    load_reranker,
)
from tests.rag_backend.knowledge.building import DirectReading, opened_library, put, settled
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding
from tests.tiny_reranker import build_tiny_reranker

TEXTS = ["a b c", "x y z " * 80, "", "q"]


class Longest:
    """Prefers long texts, by a share of 100 characters."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """See Reranker."""
        self.asked.append(len(texts))
        return [min(1.0, len(text) / 100) for text in texts]


class Failing:
    """Cannot."""

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """See Reranker."""
        raise RerankingFailed("out of memory")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_reranker(tmp_path_factory.mktemp("reranker"))


@pytest.fixture(params=["real", "fake"])
def reranker(request: pytest.FixtureRequest, model: Path) -> Reranker:
    return load_reranker(str(model)) if request.param == "real" else Longest()


def test_scores_lie_within_0_and_1_and_are_the_same_alone(reranker: Reranker) -> None:
    together = reranker.scores("a b", TEXTS)
    assert all(0.0 <= score <= 1.0 for score in together)
    assert len(set(together)) > 1
    alone = [reranker.scores("a b", [text])[0] for text in TEXTS]
    assert together == pytest.approx(alone, abs=1e-3)
    assert reranker.scores("a b", []) == []


def test_a_path_without_a_model_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"RERANKER_MODEL=.*no such folder\. Give") as error:
        check_reranker(str(tmp_path / "absent"))
    assert "\n" not in str(error.value)
    with pytest.raises(StartError, match="no model in this folder"):
        check_reranker(str(tmp_path))
    check_reranker("some/model-on-a-hub")


def test_what_is_no_reranker_is_refused(tmp_path: Path) -> None:
    three = build_tiny_reranker(tmp_path / "three", labels=3)
    with pytest.raises(StartError, match="one score"):
        load_reranker(str(three))
    encoder = build_tiny_reranker(tmp_path / "encoder")
    config = encoder / "config.json"
    config.write_text(
        config.read_text("utf-8").replace("BertForSequenceClassification", "BertModel")
    )
    with pytest.raises(StartError, match="one score"):
        load_reranker(str(encoder))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    with pytest.raises(StartError, match="cannot be loaded"):
        load_reranker(str(tmp_path / "broken"))


async def loaded(reranking: Reranking) -> Reranking:
    reranking.start()
    await reranking.wait()
    return reranking


async def filled(library: Library) -> Library:
    store = await library.store("default")
    for number in range(60):
        await put(library, store, f"{number}.txt", f"lunch {'x' * number}".encode())
    await settled(library, store)
    async with asyncio.timeout(60):  # what it learns is a new revision: a search begins again
        while not library.indexer.calibrator.idle:
            await asyncio.sleep(0.01)
    return library


async def test_the_best_are_ordered_anew(tmp_path: Path) -> None:
    judge = Longest()
    reranking = await loaded(Reranking(lambda: judge))
    async with opened_library(
        tmp_path, FakeEmbedding(), DirectReading(), reranking=reranking
    ) as library:
        store = await (await filled(library)).store("default")
        plain = await library.search(store, "lunch", 60, rerank=False)
        assert judge.asked == []
        hits = await library.search(store, "lunch", 60)
        assert judge.asked == [RERANKED]
        best = hits[:RERANKED]
        assert {hit.chunk.id for hit in best} == {hit.chunk.id for hit in plain[:RERANKED]}
        assert [hit.chunk.id for hit in hits[RERANKED:]] == [h.chunk.id for h in plain[RERANKED:]]
        lengths = [len(hit.chunk.text) for hit in best]
        assert lengths == sorted(lengths, reverse=True)
        assert [hit.score for hit in best] == [length / 100 for length in lengths]
    await reranking.stop()


@pytest.mark.parametrize("load", [Longest, None])
async def test_what_the_query_names_by_number_stays_first(
    tmp_path: Path, load: type[Longest] | None
) -> None:
    reranking = await loaded(Reranking(load))
    async with opened_library(
        tmp_path, FakeEmbedding(), DirectReading(), reranking=reranking
    ) as library:
        store = await library.store("default")
        law = "Điều 5. Mức phạt\n\nPhạt tiền.\n\nĐiều 6. Hiệu lực\n\n" + "Luật có hiệu lực. " * 9
        await put(library, store, "law.txt", law.encode())
        await settled(library, store)
        hits = await library.search(store, "Điều 5 nói gì về hiệu lực?", 5)
        assert hits[0].chunk.heading_path == ("Điều 5. Mức phạt",)
        assert hits[0].score == 1.0
    await reranking.stop()


async def test_one_that_fails_leaves_the_fused_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reranking = await loaded(Reranking(Failing))
    async with opened_library(
        tmp_path, FakeEmbedding(), DirectReading(), reranking=reranking
    ) as library:
        store = await (await filled(library)).store("default")
        with caplog.at_level(logging.WARNING):
            hits = await library.search(store, "lunch", 10)
            assert await library.search(store, "lunch", 10) == hits
        assert hits == await library.search(store, "lunch", 10, rerank=False)
    assert caplog.text.count("out of memory") == 1
    await reranking.stop()


async def test_nobody_waits_for_it_to_load() -> None:
    go = threading.Event()

    def load() -> Reranker:
        assert go.wait(60)
        return Longest()

    reranking = Reranking(load)
    reranking.start()
    assert await reranking.scores("a", ["b"]) is None
    go.set()
    await reranking.wait()
    assert await reranking.scores("a", ["b"]) == [0.01]
    await reranking.stop()


async def test_one_that_cannot_be_loaded_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reranking = Reranking(lambda: load_reranker(str(tmp_path / "absent")))
    with caplog.at_level(logging.WARNING):
        reranking.start()
        with pytest.raises(StartError):
            await reranking.wait()
        await asyncio.sleep(0)
        assert await reranking.scores("a", ["b"]) is None
    assert caplog.text.count("no such folder") == 1


async def test_without_one() -> None:
    reranking = Reranking()
    reranking.start()
    assert await reranking.wait() is None
    assert await reranking.scores("a", ["b"]) is None
    await reranking.stop()
