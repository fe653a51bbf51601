"""Changes on disk are noticed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from watchfiles import Change

from ingest import watching


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes, and no folder changes."""
    monkeypatch.setattr(watching, "_ticks", lambda _folders: iter([False] * 3))


def test_a_change_below_a_folder(tmp_path: Path) -> None:
    writing = threading.Event()

    def write_until_seen() -> None:
        number = 0
        while not writing.wait(0.05):
            number += 1
            (tmp_path / "a.md").write_text(str(number))

    writer = threading.Thread(target=write_until_seen)
    writer.start()
    try:
        seen: Iterator[None] = watching.changes([tmp_path], retry=threading.Event())
        next(seen)
    finally:
        writing.set()
        writer.join()


def test_a_file_given_by_name_may_be_put_in_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = tmp_path / "a.md", tmp_path / "b"
    file.write_text("one")

    def replace(_folders: object) -> Iterator[bool]:
        yield False
        other.write_text("two!")
        other.replace(file)
        yield False
        yield False

    monkeypatch.setattr(watching, "_ticks", replace)
    assert len(list(watching.changes([file], retry=threading.Event()))) == 1


@pytest.mark.usefixtures("ticks")
def test_an_unfinished_run_is_tried_again(tmp_path: Path) -> None:
    retry = threading.Event()
    retry.set()
    assert len(list(watching.changes([tmp_path], retry=retry))) == 1
    assert not retry.is_set()


def test_only_what_can_matter(tmp_path: Path) -> None:
    assert watching._matters(Change.modified, str(tmp_path / "a.md"))
    assert watching._matters(Change.deleted, str(tmp_path / "folder"))
    assert watching._matters(Change.added, str(tmp_path))
    assert not watching._matters(Change.added, str(tmp_path / "a.tmp"))
    assert not watching._matters(Change.modified, str(tmp_path / ".a.md.swp"))
