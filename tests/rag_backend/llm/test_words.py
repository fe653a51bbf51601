"""Forms of words; they must be those of the store's index."""

from __future__ import annotations

import pytest

from rag_backend.knowledge import text as index
from rag_backend.llm.words import fold, language_of, pairs, term, words

TEXTS = ["Luật Đường bộ năm 2024", "đi đúng LÀN đường", "Employees' policies, running", "naïve Đà"]


@pytest.mark.parametrize("text", TEXTS)
def test_terms_are_those_of_the_index(text: str) -> None:
    assert words(text) == index.words(text)
    assert [fold(w) for w in words(text)] == [index.fold(w) for w in index.words(text)]
    assert [term(w) for w in words(text)] == [index.stem(index.fold(w)) for w in index.words(text)]
    assert pairs(words(text)) == index.bigrams(index.fold(w) for w in index.words(text))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Xin chào", "vi"),
        ("xin chao", "vi"),
        ("vuot den do bi phat bao nhieu", "vi"),
        ("How many days?", "en"),
        ("Où est le café naïf ?", "en"),
        ("", "en"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert language_of(text) == language
