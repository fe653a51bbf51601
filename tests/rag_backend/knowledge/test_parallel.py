"""Batches side by side: each thread has a model for itself, and all have the same weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from rag_backend.knowledge.embedding import SentenceTransformerEmbedding
from rag_backend.knowledge.parallel import Replicas


def test_a_thread_has_its_own_tokenizer_and_everybodys_weights(
    embedding: SentenceTransformerEmbedding,
) -> None:
    model = embedding._model
    both = threading.Barrier(2, timeout=60)

    def look(mine: object, _item: int) -> tuple[object, int, int]:
        both.wait()  # so that the two items are in two threads
        return mine, next(mine.parameters()).data_ptr(), torch.get_num_threads()  # type: ignore[attr-defined]

    before = torch.get_num_threads()
    (one, weights, threads), (other, same, _) = Replicas(model, 2).map(look, [0, 1])
    assert one is not other
    assert one is not model
    assert one.tokenizer is not other.tokenizer  # type: ignore[attr-defined]
    assert weights == same == next(model.parameters()).data_ptr()
    assert threads == 1
    assert torch.get_num_threads() == before  # nobody else's threads are changed


def test_the_first_failure_is_raised_and_what_has_not_begun_is_left_out(
    embedding: SentenceTransformerEmbedding,
) -> None:
    seen: list[int] = []
    asked, over = threading.Event(), threading.Event()

    class Items(list[int]):
        """Says when all of its items have been handed over."""

        def __iter__(self) -> Iterator[int]:
            yield from super().__iter__()
            asked.set()

    def fail(_model: object, item: int) -> None:
        asked.wait(60)
        seen.append(item)
        if item:  # begun before whoever waits has been told of the first one's failure
            over.wait(60)
        raise RuntimeError(f"item {item}")

    replicas = Replicas(embedding._model, 1)
    with pytest.raises(RuntimeError, match="item 0"):
        replicas.map(fail, Items(range(10_000)))
    over.set()
    replicas._pool.shutdown()
    assert seen in ([0], [0, 1])


def test_many_threads_may_ask_at_once(embedding: SentenceTransformerEmbedding) -> None:
    texts = [f"text number {n} " * (n % 7 + 1) for n in range(40)]
    alone = embedding.embed(texts, "document")
    replicas = Replicas(embedding._model, 2)
    found = replicas.map(lambda _model, text: embedding.embed([text], "document")[0], texts)
    for one, other in zip(alone, found, strict=True):
        assert float(one @ other) > 0.99
