"""The read path over the examples, with the real encoder."""

from __future__ import annotations

import asyncio
import json
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rag_backend.answering.finding import CHUNKS, RELEVANT
from rag_backend.errors import NotFound
from rag_backend.knowledge.embedding import EmbeddingProvider
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store, StoredChunk
from rag_backend.knowledge.passages import merge_neighbours
from rag_backend.knowledge.reading import ReadingPool
from rag_backend.knowledge.retriever import coverage
from tests.rag_backend.knowledge.building import (
    assert_agreement,
    opened_library,
    put,
    settled,
    statuses,
)

pytestmark = pytest.mark.usefixtures("storage")

ROOT = Path(__file__).parents[3]
QUESTIONS = [
    json.loads(line)
    for line in (ROOT / "tests/e2e/questions.jsonl").read_text("utf-8").splitlines()
]
OFF_TOPIC = [
    "What is the capital of France?",
    "How do I bake a chocolate cake?",
    "Who won the football world cup in 2018?",
    "Explain quantum entanglement to a child.",
    "What is the speed of light?",
    "Sông nào dài nhất thế giới?",
    "Cách nấu phở bò ngon như thế nào?",
    "Ai là người đầu tiên đặt chân lên mặt trăng?",
    "thu do cua nuoc Phap la thanh pho nao",
    "cach nau pho bo ngon nhu the nao",
    "ai la nguoi dau tien dat chan len mat trang",
    "truyen kieu do ai sang tac",
    "Thủ đô của nước Pháp là thành phố nào?",
]
MUTED = {"type": "eq", "key": "path", "value": "company/handbook.md"}


@pytest.fixture(scope="module")
def examples(
    storage: str,
    tmp_path_factory: pytest.TempPathFactory,
    embedding: EmbeddingProvider,
    reading: ReadingPool,
) -> Path:
    """A data directory in which the examples are indexed."""
    folder = tmp_path_factory.mktemp("examples")
    asyncio.run(_index_examples(folder, embedding, reading))
    return folder


async def _index_examples(folder: Path, embedding: EmbeddingProvider, reading: ReadingPool) -> None:
    async with opened_library(folder, embedding, reading) as library:
        store = await library.store("default")
        for path in sorted(p for p in (ROOT / "examples").rglob("*") if p.is_file()):
            place = path.relative_to(ROOT / "examples").as_posix()
            await put(library, store, path.name, path.read_bytes(), path=place)
        await settled(library, store)
        assert set(statuses(library, store).values()) == {"completed"}
        assert_agreement(library)
        await learnt(library)


async def learnt(library: Library) -> None:
    """What a store learns changes its scores: not in the middle of a test."""
    async with asyncio.timeout(120):
        while library.arriving is not None or not library.indexer.calibrator.idle:
            await asyncio.sleep(0.01)


@pytest.fixture
async def library(
    examples: Path, embedding: EmbeddingProvider, reading: ReadingPool
) -> AsyncIterator[Library]:
    """The examples, reopened."""
    async with opened_library(examples, embedding, reading) as opened:
        await learnt(opened)
        yield opened


@pytest.fixture
async def store(library: Library) -> Store:
    return await library.store("default")


def place(chunk: StoredChunk) -> str:
    """The example that a chunk comes from."""
    return unicodedata.normalize("NFC", str(chunk.attributes["path"]))


async def test_every_question_finds_its_passage(library: Library, store: Store) -> None:
    wrong = []
    for asked in QUESTIONS:
        best = merge_neighbours(await library.search(store, asked["question"], CHUNKS))[0]
        right = place(best.best) == asked["file"] and best.relevance >= RELEVANT
        if not right or not all(fact in best.text for fact in asked["must_contain"]):
            wrong.append((asked["question"], place(best.best), best.relevance))
    assert wrong == []


@pytest.mark.parametrize("question", OFF_TOPIC)
async def test_what_the_examples_do_not_say_is_not_relevant(
    library: Library, store: Store, question: str
) -> None:
    hits = await library.search(store, question, CHUNKS)
    best = max(hits, key=lambda hit: hit.relevance)
    assert best.relevance < RELEVANT, best.chunk.text


async def test_scores_fall_and_stay_within_0_and_1(library: Library, store: Store) -> None:
    for asked in QUESTIONS[::6]:
        hits = await library.search(store, asked["question"], 20)
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert all(0.0 <= hit.score <= 1.0 and 0.0 <= hit.relevance <= 1.0 for hit in hits)
        assert await library.search(store, asked["question"], 3) == hits[:3]


async def test_a_query_in_nfd_finds_the_same(library: Library, store: Store) -> None:
    question = "Kho lạnh được giữ ở nhiệt độ nào?"
    expected = await library.search(store, question, 5)
    assert await library.search(store, unicodedata.normalize("NFD", question), 5) == expected


async def test_a_filter_leaves_only_its_files(library: Library, store: Store) -> None:
    hits = await library.search(store, "lunch allowance", 10, MUTED)
    assert {place(hit.chunk) for hit in hits} == {"company/handbook.md"}
    nothing = {"type": "eq", "key": "path", "value": "absent"}
    assert await library.search(store, "lunch allowance", 10, nothing) == []


@pytest.mark.parametrize("query", ["?!", "\ud800", "x" * 20_000, "một " * 5000, "\x00"])
async def test_odd_queries_are_answered(library: Library, store: Store, query: str) -> None:
    assert isinstance(await library.search(store, query, 3), list)


async def test_a_store_without_files_finds_nothing(library: Library) -> None:
    empty = library.catalog.create_store("empty", {})
    assert await library.search(empty, "lunch", 3) == []
    await library.delete_store(empty)
    with pytest.raises(NotFound):
        await library.search(empty, "lunch", 3)


def test_coverage() -> None:
    weights = {"lunch": 3.0, "noon": 1.0}
    assert coverage(weights, "Lunch is at twelve") == 0.75
    assert coverage({}, "anything") == 0.0
