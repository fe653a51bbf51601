"""Queries to vectors: how long a search waits, and for whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from rag_backend.errors import UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from rag_backend.knowledge import retriever as module
from rag_backend.knowledge.embedding import Kind, Vectors, probe
from rag_backend.knowledge.encoder import Encoder
from rag_backend.knowledge.querying import Queries
from rag_backend.knowledge.reranking import Reranking
from tests.rag_backend.knowledge.building import DirectReading, opened_library, put, settled
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding


class Hanging(FakeEmbedding):
    """Answers no query until it is let go."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.go = threading.Event()
        self.error = error

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """See EmbeddingProvider."""
        if kind == "query":
            if self.error is not None:
                raise self.error
            assert self.go.wait(60)
        return super().embed(texts, kind)


def loaded(embedding: FakeEmbedding) -> Encoder:
    return Encoder(embedding, probe(embedding))


async def test_a_query_is_waited_for_as_long_as_a_search_has_patience() -> None:
    hanging, queries = Hanging(), Queries(patience=0.05)
    encoder = loaded(hanging)
    assert await queries.vector(encoder, "lunch") is None
    assert queries.unanswered == 1
    assert "words alone" in (queries.problem or "")
    hanging.go.set()
    queries._patience = 60  # a busy machine takes longer than the little that was enough above
    vector = await queries.vector(encoder, "lunch")
    assert vector is not None
    assert vector.shape == (64,)
    assert (queries.unanswered, queries.problem) == (1, None)
    await asyncio.to_thread(queries.close)


@pytest.mark.parametrize(
    "error",
    [
        UpstreamTimeout("It did not answer within 10 s."),
        UpstreamUnavailable("It cannot be reached: start it."),
    ],
)
async def test_a_server_that_is_late_or_away_gives_no_vector(error: UpstreamError) -> None:
    queries = Queries()
    assert await queries.vector(loaded(Hanging(error)), "lunch") is None
    assert queries.unanswered == 1
    assert str(error) in (queries.problem or "")
    await asyncio.to_thread(queries.close)


async def test_a_refusal_is_an_error() -> None:
    queries = Queries()
    refusing = loaded(Hanging(UpstreamRefused("It refused the key (401).", status=401)))
    with pytest.raises(UpstreamRefused):
        await queries.vector(refusing, "lunch")
    assert (queries.unanswered, queries.problem) == (0, None)
    await asyncio.to_thread(queries.close)


async def test_words_answer_while_the_encoder_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging()
    monkeypatch.setattr(module, "Queries", lambda: Queries(patience=0.05))
    async with opened_library(tmp_path, hanging, DirectReading()) as library:
        store = await library.store("default")
        await put(library, store, "a.md", b"Lunch is at noon")
        await settled(library, store)
        # More of them than there are threads, anywhere.
        found = await asyncio.gather(*(library.search(store, "lunch", 3) for _ in range(40)))
        assert [[hit.chunk.text for hit in hits] for hits in found] == [["Lunch is at noon"]] * 40
        assert library.searches_by_words >= 40
        await asyncio.to_thread(lambda: None)  # threads that others wait for are free
        hanging.go.set()
        library.retriever.queries._patience = 60  # as long as a busy machine takes
        before = library.searches_by_words
        assert await library.search(store, "lunch", 3)
        assert library.searches_by_words == before


async def test_a_slow_reranker_stops_nobody_else() -> None:
    go, busy = threading.Event(), threading.Event()

    class Slow:
        def scores(self, query: str, texts: Sequence[str]) -> list[float]:
            """See Reranker."""
            busy.set()
            assert go.wait(60)
            return [0.5] * len(texts)

    reranking = Reranking(Slow)
    reranking.start()
    await reranking.wait()
    waiting = [asyncio.create_task(reranking.scores("q", ["a"])) for _ in range(40)]
    assert await asyncio.to_thread(busy.wait, 60)  # one of the threads that everybody uses
    assert not any(task.done() for task in waiting)
    go.set()
    assert await asyncio.gather(*waiting) == [[0.5]] * 40
    await reranking.stop()
