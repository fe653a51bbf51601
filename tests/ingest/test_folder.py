"""The walk: what is sent, what is passed over, what is a problem."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from ingest.errors import CommandError
from ingest.folder import (
    LONGEST_IDENTITY,
    Digests,
    Found,
    Problem,
    bare,
    identity_of,
    is_gone,
    is_under,
    is_wanted,
    roots_of,
    shown,
    walk,
)


def write(path: Path, text: str = "text\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def names(*roots: Path) -> list[str]:
    return [path.relative_to(roots[0]).as_posix() for path in walk(roots).files.values()]


def test_known_formats_in_a_stable_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.pdf", "sub/deep/d.DOCX", "photo.jpg", "no_suffix"):
        write(tmp_path / name)
    assert names(tmp_path) == ["a.md", "b.txt", "sub/c.pdf", "sub/deep/d.DOCX"]


def test_hidden_entries_and_lock_files_are_passed_over(tmp_path: Path) -> None:
    for name in (".secret.md", ".git/readme.md", "~$plan.docx", "plan.docx"):
        write(tmp_path / name)
    assert names(tmp_path) == ["plan.docx"]
    assert not is_wanted("~$plan.docx")


def test_unknown_formats_are_noted(tmp_path: Path) -> None:
    for name in ("a.md", "old.doc", "sub/photo.JPG", "Makefile", ".hidden", "~$old.doc"):
        write(tmp_path / name)
    (tmp_path / "again.doc").symlink_to(tmp_path / "old.doc")
    found = walk([tmp_path, tmp_path / "Makefile"])
    assert {path.name for path in found.skipped.values()} <= {"old.doc", "again.doc", "photo.JPG"}
    assert len(found.skipped) == 2
    assert [path.name for path in found.files.values()] == ["a.md", "Makefile"]
    assert not found.problems


def test_folders_without_a_file_to_send(tmp_path: Path) -> None:
    write(tmp_path / "full" / "a.md")
    write(tmp_path / "photos" / "b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "full", target_is_directory=True)
    roots = [tmp_path / "full", tmp_path / "link", tmp_path / "photos", tmp_path / "photos/b.jpg"]
    assert bare(roots[:3], walk(roots[:3])) == [tmp_path / "photos"]
    assert bare(roots, walk(roots)) == []


def test_a_file_given_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    file = write(tmp_path / ".env.dat")
    assert list(walk([file]).files.values()) == [file]


def test_links_in_a_loop_end(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.md")
    (tmp_path / "real" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "copy.md").symlink_to(tmp_path / "real" / "a.md")
    assert names(tmp_path) == ["real/a.md"]


def test_links_out_of_the_folder_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "sub" / "b.md")
    top = tmp_path / "top"
    write(top / "a.md")
    (top / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (top / "broken.md").symlink_to(tmp_path / "nowhere.md")
    assert names(top) == ["a.md", "link/sub/b.md"]


def test_overlapping_roots_give_each_file_once(tmp_path: Path) -> None:
    file = write(tmp_path / "sub" / "a.md")
    assert len(walk([tmp_path, tmp_path / "sub", file]).files) == 1
    assert len(walk([file, tmp_path]).files) == 1


def test_a_folder_that_cannot_be_opened_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "closed" / "a.md")
    write(tmp_path / "open" / "b.md")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    monkeypatch.chdir(tmp_path)
    found = walk([tmp_path])
    assert [path.name for path in found.files.values()] == ["b.md"]
    assert found.problems == [Problem("closed", "permission denied")]


def test_names_that_differ_in_normal_form_only_are_a_problem(tmp_path: Path) -> None:
    composed = unicodedata.normalize("NFC", "Điều lệ.md")
    write(tmp_path / composed)
    write(tmp_path / unicodedata.normalize("NFD", composed))
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system keeps one of the two forms")
    found = walk([tmp_path])
    assert len(found.files) == 1
    assert len(found.problems) == 1


def test_roots_must_exist(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="does not exist"):
        roots_of([str(tmp_path), str(tmp_path / "none")])
    with pytest.raises(CommandError, match="does not exist"):
        roots_of([str(write(tmp_path / "file.md") / "below")])


def test_roots_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    assert roots_of(["docs", "./docs/", "docs/../docs"]) == [tmp_path / "docs"]


def test_an_identity_is_composed_and_in_posix_form() -> None:
    assert identity_of(Path("/a") / unicodedata.normalize("NFD", "Quyết định")) == "/a/Quyết định"


def test_a_long_identity_keeps_its_end_and_stays_distinct() -> None:
    deep = "/" + "thư mục dài/" * 60
    one, two = identity_of(Path(deep + "x/a.md")), identity_of(Path(deep + "y/a.md"))
    assert len(one) == len(two) == LONGEST_IDENTITY
    assert one.endswith("x/a.md")
    assert one[:17] != two[:17]


def test_what_lies_under_a_root() -> None:
    roots = [Path("/docs")]
    assert is_under("/docs/a.md", roots)
    assert is_under("/docs", roots)
    assert not is_under("/docs2/a.md", roots)
    assert is_under("/anything", [Path("/")])


def test_only_what_is_surely_gone_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = write(tmp_path / unicodedata.normalize("NFD", "Điều lệ.md"))
    assert not is_gone(identity_of(there))
    assert is_gone(f"{tmp_path}/none.md")
    assert is_gone(f"{there}/below.md")

    def refuse(_path: str) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.stat", refuse)
    assert not is_gone(f"{tmp_path}/none.md")


def test_digests_follow_the_bytes(tmp_path: Path) -> None:
    file, digests = write(tmp_path / "a.md", "one"), Digests()
    first = digests.of(file)
    assert digests.of(file) == first
    write(file, "two!")
    assert digests.of(file) != first


def test_a_file_that_vanishes_is_a_problem(tmp_path: Path) -> None:
    digests = Digests()
    assert isinstance(digests.read(write(tmp_path / "a.md"), "/a.md"), Found)
    gone = digests.read(tmp_path / "none.md", "/x/none.md")
    assert gone == Problem("/x/none.md", "it vanished while it was being read")


def test_a_name_cannot_move_the_cursor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(identity_of(tmp_path / "a\n\x1b[2Jb.md")) == "a\ufffd\ufffd[2Jb.md"
