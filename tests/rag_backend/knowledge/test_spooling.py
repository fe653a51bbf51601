"""Chunks on disk are the chunks that were handed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.document import Chunk
from rag_backend.errors import StorageBroken
from rag_backend.knowledge.spooling import HELD, handed_over


def many(number: int) -> list[Chunk]:
    return [Chunk(f"đoạn {n}\nhai", n, n + 5, n or None, ("A", "B")) for n in range(number)]


def test_a_short_list_stays_in_memory(tmp_path: Path) -> None:
    held = handed_over(many(HELD), tmp_path / "a")
    assert not held.on_disk
    assert list(held) == many(HELD)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [HELD + 1, 1000, 1024])
def test_a_long_one_goes_to_disk_and_comes_back(tmp_path: Path, number: int) -> None:
    spooled = handed_over(many(number), tmp_path / "a")
    assert spooled.on_disk
    assert len(spooled) == number
    assert list(spooled) == many(number)
    for start, stop in ((0, 1), (100, 300), (127, 129), (number - 1, number), (0, number)):
        assert spooled.part(start, stop) == many(number)[start:stop]
    assert Chunk("nothing", 0, 1) not in spooled
    spooled.discard()
    spooled.discard()
    with pytest.raises(StorageBroken, match="Ingest the file again"):
        spooled.part(0, 1)


def test_rows_of_sheets_keep_their_answers(tmp_path: Path) -> None:
    row = Chunk("a | b", 0, 5, question="a", answer="b")
    assert next(iter(handed_over([row] * (HELD + 1), tmp_path / "a"))) == row
