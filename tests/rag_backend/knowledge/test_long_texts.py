"""Texts that are longer than an encoder reads: nothing of them becomes invisible."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from rag_backend.knowledge.embedding import SentenceTransformerEmbedding, load_embedding
from rag_backend.knowledge.long_texts import averaged, halved, pieces, unit
from tests.embeddings_server import EmbeddingsServer
from tests.rag_backend.knowledge.test_embedding_server import connect


def words(text: str) -> Sequence[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", text)]


def signs(text: str) -> Sequence[tuple[int, int]]:
    return [(at, at + 1) for at in range(len(text))]


def bytes_of(text: str) -> Sequence[tuple[int, int]]:
    """As byte-level tokenizers count: several tokens begin at one sign."""
    return [(at, at + 1) for at, sign in enumerate(text) for _ in sign.encode()]


TEXTS = ["", "a", "one two", "one two three four five six seven eight nine ten", "x" * 50, "ộ" * 30]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("spans", [words, signs, bytes_of])
@pytest.mark.parametrize("most", [3, 7, 1000])
def test_pieces_are_the_text_and_none_is_too_long(text: str, spans: object, most: int) -> None:
    found = pieces(text, spans, most)  # type: ignore[arg-type]
    assert "".join(found) == text
    assert all(len(spans(piece)) <= most for piece in found)  # type: ignore[operator]


def test_pieces_are_even_and_end_between_words() -> None:
    text = " ".join(["word"] * 11)
    assert [len(piece.split()) for piece in pieces(text, words, 10)] in ([6, 5], [5, 6])
    assert pieces("alpha beta gamma", signs, 9) == ["alpha ", "beta ", "gamma"]


def test_one_sign_of_many_tokens_stays_whole() -> None:
    assert pieces("ộ", bytes_of, 2) == ["ộ"]


def test_parts_that_fit() -> None:
    text = "one two three four five"
    parts = list(halved(text, lambda part: len(part) <= 8))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 8


def test_the_whole_is_the_mean_of_its_pieces_by_length() -> None:
    rows = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    found = averaged(rows, [["a"], ["bbb", "c"]])
    assert found == pytest.approx(unit(np.array([[1, 0], [3, 1]], dtype=np.float32)))
    assert averaged(rows, [["a"], ["b"], ["c"]]) is rows


@pytest.fixture(scope="module")
def narrow() -> SentenceTransformerEmbedding:
    """The packaged encoder, as if it read 30 tokens."""
    model = load_embedding("embedded")._model
    model.max_seq_length = 32
    return SentenceTransformerEmbedding(model, "narrow", None)


FILLER = "The quarterly report lists offices, their managers and the rent of each floor. " * 4
TAIL = "Employees have twelve days of annual leave."


def test_the_end_of_a_long_text_is_seen(narrow: SentenceTransformerEmbedding) -> None:
    assert narrow.max_tokens == 30
    with_tail, without = narrow.embed([FILLER + TAIL, FILLER + "It is filed."], "document")
    [asked] = narrow.embed(["How many days of annual leave are there?"], "query")
    assert float(with_tail @ asked) > float(without @ asked) + 0.05
    assert np.linalg.norm(with_tail) == pytest.approx(1.0, abs=1e-3)


def test_short_texts_are_not_touched_by_long_ones(narrow: SentenceTransformerEmbedding) -> None:
    [alone] = narrow.embed([TAIL], "document")
    together = narrow.embed([FILLER, TAIL, FILLER + TAIL], "document")
    assert float(together[1] @ alone) > 0.999
    [long_query] = narrow.embed([FILLER + TAIL], "query")
    assert float(long_query @ together[2]) > 0.99


def test_a_prompt_leaves_less_for_the_text(narrow: SentenceTransformerEmbedding) -> None:
    model = narrow._model
    before = model.prompts
    model.prompts = {"query": "query: ", "passage": "passage: "}
    try:
        assert SentenceTransformerEmbedding(model, "prompted", None).max_tokens == 28
    finally:
        model.prompts = before


def test_a_server_is_sent_no_text_that_it_may_cut_short() -> None:
    with EmbeddingsServer() as server:
        embedding = connect(server.url)
        long = "cats and dogs " * 200  # 1,400 tokens by the estimate, of 512
        vectors = embedding.embed(["a", long], "document")
        embedding.close()
        sent = [text for asked in server.asked for text in asked["input"]]
    assert max(len(text) for text in sent) <= 1024
    assert "".join(text for text in sent if text != "a") == long
    assert vectors.shape[0] == 2
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
