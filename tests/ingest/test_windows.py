"""Windows of a fixed size: what they hold, where they lie, and that encoders read them whole."""

from __future__ import annotations

import pytest

from ingest.chunking import StaticSize, windows
from ingest.document import Block, Document


def count(text: str) -> int:
    """A word is a token, and a mark of its own one more."""
    return len(text.split()) + text.count("›")


def text_of(document: Document) -> str:
    return "\n".join(block.text for block in document.blocks)


NUMBERS = Document((Block("paragraph", " ".join(str(n) for n in range(1000)), page=3),))


def test_windows_have_the_size_and_the_overlap_that_were_asked_for() -> None:
    made = windows(NUMBERS, count, 500, StaticSize(100, 40))
    assert [chunk.text.split()[0] for chunk in made[:3]] == ["0", "60", "120"]
    assert {count(chunk.text) for chunk in made[:-1]} == {100}
    assert made[-1].text.split()[-1] == "999"
    assert all(chunk.page == 3 for chunk in made)


def test_windows_the_encoder_cannot_read_are_smaller_and_keep_their_share_of_overlap() -> None:
    made = windows(NUMBERS, count, 50, StaticSize(800, 400))
    assert [chunk.text.split()[0] for chunk in made[:3]] == ["0", "25", "50"]
    assert all(count(chunk.indexed_text) <= 50 for chunk in made)
    assert StaticSize(800, 400).within(50) == StaticSize(50, 25)
    assert StaticSize(100, 40).within(256) == StaticSize(100, 40)


def test_without_overlap_every_word_is_in_one_window() -> None:
    made = windows(NUMBERS, count, 500, StaticSize(128, 0))
    assert " ".join(chunk.text for chunk in made).split() == text_of(NUMBERS).split()


SECTIONS = Document(
    (
        Block("heading", "Handbook", level=1, page=1),
        Block("heading", "Leave", level=2, page=1),
        Block("paragraph", "Twelve days a year. " * 20, page=1),
        Block("heading", "Lunch", level=2, page=2),
        Block("paragraph", "Lunch is paid. " * 20, page=2),
    )
)


def test_windows_know_their_span_their_page_and_the_headings_above() -> None:
    made = windows(SECTIONS, count, 40, StaticSize(100, 50))
    text = text_of(SECTIONS)
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in made)
    assert all(count(chunk.indexed_text) <= 40 for chunk in made)
    assert made[0].heading_path == ()  # its first word is the outermost heading
    assert ("Handbook", "Leave") in {chunk.heading_path for chunk in made}
    assert made[-1].heading_path == ("Handbook", "Lunch")
    assert (made[0].page, made[-1].page) == (1, 2)


def test_a_row_that_answers_stays_whole() -> None:
    row = Block("table_row", "How long? | Two days.", question="How long?", answer="Two days.")
    words = Block("paragraph", "word " * 30)
    made = windows(Document((words, row, words)), count, 20, StaticSize(100, 50))
    [answering] = [chunk for chunk in made if chunk.answer]
    assert (answering.question, answering.answer, answering.text) == (
        "How long?",
        "Two days.",
        row.text,
    )


@pytest.mark.parametrize("text", ["x" * 5000, "字" * 300, "a", "word " * 7 + "y" * 900])
def test_words_longer_than_a_window_are_cut(text: str) -> None:
    document = Document((Block("paragraph", text.strip()),))
    made = windows(document, lambda t: len(t.encode()) // 2 + 1, 64, StaticSize(100, 20))
    covered = {at for chunk in made for at in range(chunk.start, chunk.end)}
    assert covered >= {at for at, char in enumerate(text.strip()) if not char.isspace()}
    assert all(len(chunk.indexed_text.encode()) // 2 + 1 <= 64 for chunk in made)


def test_a_count_that_does_not_add_up_makes_smaller_windows() -> None:
    def superadditive(text: str) -> int:
        return len(text.split()) * 3 // 2

    made = windows(NUMBERS, superadditive, 60, StaticSize(100, 50))
    assert all(superadditive(chunk.indexed_text) <= 60 for chunk in made)
    assert made[-1].text.split()[-1] == "999"


def test_nothing_makes_nothing() -> None:
    assert windows(Document(()), count, 10, StaticSize(100, 50)) == []
    with pytest.raises(ValueError, match="no room"):
        windows(NUMBERS, count, 0, StaticSize(100, 50))
