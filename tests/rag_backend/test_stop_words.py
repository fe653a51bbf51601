"""Which words of a question say nothing."""

from __future__ import annotations

import pytest

from rag_backend.stop_words import ENGLISH_OR_VIETNAMESE, STOP_WORDS, stop_words_of
from rag_backend.text import content_words, pieces, words


@pytest.mark.parametrize(
    ("question", "content"),
    [
        ("How long is the notice period?", ["notice", "period"]),
        ("Thời hạn báo trước là bao nhiêu ngày?", ["thời", "hạn", "báo", "trước", "ngày"]),
        ("Wie lang ist die Kündigungsfrist?", ["lang", "kündigungsfrist"]),
        ("Quelle est la durée du préavis ?", ["durée", "préavis"]),
        ("¿Cuál es el plazo de preaviso?", ["plazo", "preaviso"]),
        ("Какой срок уведомления?", ["срок", "уведомления"]),
        ("Jaki jest okres wypowiedzenia?", ["okres", "wypowiedzenia"]),
        ("die hard", ["die", "hard"]),
        ("What is it?", ["what", "is", "it"]),
    ],
)
def test_what_a_question_is_about(question: str, content: list[str]) -> None:
    assert content_words(question) == content


def test_a_tie_goes_to_english_and_vietnamese() -> None:
    assert stop_words_of(["in"]) is ENGLISH_OR_VIETNAMESE
    assert stop_words_of([]) is ENGLISH_OR_VIETNAMESE


def test_unspaced_scripts_are_judged_by_pairs() -> None:
    asked = [piece for word in words("如何设置打印机") for piece in pieces(word)]
    assert "如何" in stop_words_of(asked)


def test_every_word_is_as_it_is_compared() -> None:
    for language, listed in STOP_WORDS.items():
        assert all(word == word.casefold() for word in listed), language
