"""`python -m ingest`: each promise to the user, against the stand-in and the real backend."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.client import Client
from ingest.main import main
from ingest.sending import Sender
from tests.ingest.conftest import CommandLine
from tests.ingest.fake_backend import Entry, FakeBackend


def test_a_folder_is_stored_once(ingest: CommandLine, folder: Path) -> None:
    first = ingest(folder)
    assert (first.status, first.err) == (0, "")
    assert first.counts() == {"added": 3}
    ids = {file.id for file in ingest.stored().values()}
    second = ingest(folder)
    assert second.status == 0
    assert second.counts() == {"unchanged": 3}
    assert {file.id for file in ingest.stored().values()} == ids


def test_documents_are_known_by_path_and_digest(ingest: CommandLine, folder: Path) -> None:
    ingest(folder)
    stored = ingest.stored()["nghỉ phép.md"]
    assert stored.path == unicodedata.normalize("NFC", (folder / "nghỉ phép.md").as_posix())
    assert stored.status == "completed"
    assert stored.sha256 is not None
    assert len(stored.sha256) == 64


def test_new_bytes_replace_the_old(ingest: CommandLine, folder: Path) -> None:
    ingest(folder)
    before = ingest.stored()["hours.txt"]
    (folder / "hours.txt").write_text("The office opens at 9:00.\n", "utf-8")
    again = ingest(folder)
    assert again.status == 0
    assert again.counts() == {"replaced": 1, "unchanged": 2}
    after = ingest.stored()
    assert len(after) == 3
    assert after["hours.txt"].id != before.id


def test_a_moved_folder_is_not_sent_again(ingest: CommandLine, folder: Path) -> None:
    ingest(folder)
    before = ingest.stored()["phones.csv"]
    (folder / "con").rename(folder / "danh bạ")
    moved = ingest(folder)
    assert moved.counts() == {"moved": 1, "unchanged": 2}
    after = ingest.stored()["phones.csv"]
    assert after.id == before.id
    assert after.path == (folder / "danh bạ" / "phones.csv").as_posix()
    assert ingest(folder).counts() == {"unchanged": 3}


def test_a_renamed_file_is_cited_by_its_new_name(ingest: CommandLine, folder: Path) -> None:
    ingest(folder)
    (folder / "hours.txt").rename(folder / "opening hours.txt")
    assert ingest(folder).counts() == {"moved": 1, "unchanged": 2}
    stored = ingest.stored()
    assert set(stored) == {"nghỉ phép.md", "opening hours.txt", "phones.csv"}
    with Client(ingest.url, None) as client:
        assert client.filenames()[stored["opening hours.txt"].id] == "opening hours.txt"
    assert ingest(folder).counts() == {"unchanged": 3}


def test_a_deleted_file_goes_only_when_asked(ingest: CommandLine, folder: Path) -> None:
    ingest(folder)
    (folder / "hours.txt").unlink()
    assert ingest(folder).counts() == {"unchanged": 2}
    assert "hours.txt" in ingest.stored()
    assert ingest(folder, "--delete-missing").counts() == {"removed": 1, "unchanged": 2}
    assert "hours.txt" not in ingest.stored()


def test_delete_missing_keeps_to_the_folders_given(ingest: CommandLine, folder: Path) -> None:
    ingest(folder)
    (folder / "hours.txt").unlink()
    assert ingest(folder / "con", "--delete-missing").counts() == {"unchanged": 1}
    assert len(ingest.stored()) == 3


def test_an_emptied_folder_deletes_nothing_unless_all_is_meant(
    on_fake: CommandLine, folder: Path
) -> None:
    on_fake(folder)
    away = folder.with_name("away")
    folder.rename(away)
    folder.mkdir()  # as a drive that is not mounted leaves it
    for _ in range(2):
        result = on_fake(folder, "--delete-missing")
        assert result.status == 2
        assert "all 3 files that the store has from there; nothing was removed" in result.err
        assert "--delete-all" in result.err
        assert len(result.err.splitlines()) == 1
        assert len(on_fake.stored()) >= 3
        (folder / "readme.txt").write_text("mount me here\n")
    assert len(on_fake.stored()) == 4, "what is new is stored all the same"
    assert on_fake(folder, "--delete-missing").counts() == {"removed": 3, "unchanged": 1}
    (folder / "readme.txt").unlink()
    assert "the only file" in on_fake(folder, "--delete-missing").err
    assert on_fake(folder, "--delete-all").counts() == {"removed": 1}
    assert on_fake.stored() == {}


def test_watch_goes_on_where_everything_has_gone(
    on_fake: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unmount(_roots: object, **_options: object) -> Iterator[None]:
        away = folder.with_name("away")
        folder.rename(away)
        folder.mkdir()
        yield
        yield  # said once
        folder.rmdir()
        away.rename(folder)
        (folder / "hours.txt").unlink()
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr("ingest.main.changes", unmount)
    result = on_fake(folder, "--watch", "--delete-missing")
    assert result.err.count("nothing was removed") == 1
    assert set(on_fake.stored()) == {"nghỉ phép.md", "phones.csv"}


def test_a_missing_folder_deletes_nothing(ingest: CommandLine, folder: Path) -> None:
    ingest(folder)
    shutil.rmtree(folder)
    result = ingest(folder, "--delete-missing")
    assert result.status == 2
    assert "does not exist" in result.err
    assert len(ingest.stored()) == 3


def test_a_failed_file_is_named_and_the_others_are_stored(
    ingest: CommandLine, folder: Path
) -> None:
    (folder / "rỗng.md").write_bytes(b"")
    result = ingest(folder)
    assert result.status == 1
    assert result.counts() == {"added": 3, "failed": 1}
    last = result.out.splitlines()[-1]
    assert "rỗng.md: " in last
    assert "empty" in last
    retried = ingest(folder)
    assert retried.status == 1
    assert retried.counts() == {"failed": 1, "unchanged": 3}
    (folder / "rỗng.md").write_text("Không còn rỗng nữa.\n", "utf-8")
    repaired = ingest(folder)
    assert repaired.status == 0
    assert len(ingest.stored()) == 4
    assert ingest(folder).counts() == {"unchanged": 4}


def test_an_older_version_stays_until_the_new_one_is_readable(
    ingest: CommandLine, folder: Path
) -> None:
    ingest(folder)
    before = ingest.stored()["hours.txt"]
    original = (folder / "hours.txt").read_bytes()
    (folder / "hours.txt").write_bytes(b"")
    assert ingest(folder).counts() == {"failed": 1, "unchanged": 2}
    with Client(ingest.url, None) as client:
        files = client.stored_files(client.store(ingest.store))
    assert (before.id, "completed") in [(file.id, file.status) for file in files]
    (folder / "hours.txt").write_bytes(original)
    assert ingest(folder).counts() == {"unchanged": 3}
    assert ingest.stored()["hours.txt"].id == before.id
    assert len(ingest.stored()) == 3


def test_a_file_given_by_name_is_sent_whatever_its_suffix(
    ingest: CommandLine, folder: Path
) -> None:
    (folder / "ghi chú.dat").write_text("Mã kho là KH-7.\n", "utf-8")
    assert ingest(folder).counts() == {"added": 3, "skipped": 1}
    assert ingest("add", folder / "ghi chú.dat").counts() == {"added": 1}


def test_list_remove_and_rebuild(ingest: CommandLine, folder: Path) -> None:
    ingest(folder)
    listed = ingest("list")
    assert listed.status == 0
    rows = [line.split("\t") for line in listed.out.splitlines()]
    assert [row[0] for row in rows] == ["completed"] * 3
    assert any(row[2].endswith("nghỉ phép.md") for row in rows)
    assert ingest("remove", unicodedata.normalize("NFD", "nghỉ phép.md")).status == 0
    assert ingest("remove", folder / "con").status == 0
    assert set(ingest.stored()) == {"hours.txt"}
    by_id = ingest.stored()["hours.txt"].id
    for options in ((), ("--all",)):
        rebuilt = ingest("rebuild", *options)
        assert rebuilt.status == 0, rebuilt.err
        assert f"The store {ingest.store} is rebuilt." in rebuilt.out
    assert ingest("remove", by_id).status == 0
    assert ingest.stored() == {}


def test_a_rebuild_that_stops_is_one_line(on_fake: CommandLine, fake: FakeBackend) -> None:
    fake.stores[on_fake.store] = []
    fake.stopped_rebuild = "The disk is full."
    result = on_fake("rebuild")
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "The disk is full." in result.err


def test_remove_resolves_everything_before_it_deletes(ingest: CommandLine, folder: Path) -> None:
    (folder / "con" / "hours.txt").write_text("The depot never closes.\n", "utf-8")
    ingest(folder)
    doubtful = ingest("remove", "phones.csv", "hours.txt")
    assert doubtful.status == 2
    assert doubtful.err.count("hours.txt") == 3
    unknown = ingest("remove", "phones.csv", "nothing.txt")
    assert unknown.status == 2
    assert "nothing was removed" in unknown.err
    with Client(ingest.url, None) as client:
        assert len(client.stored_files(client.store(ingest.store))) == 4


@pytest.mark.parametrize("command", [["list"], ["rebuild"], ["remove", "x"]])
def test_a_store_that_does_not_exist_is_one_line(ingest: CommandLine, command: list[str]) -> None:
    result = ingest(*command)
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert ingest.store in result.err


def test_a_file_that_cannot_be_read_is_one_failed_line(
    on_fake: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refuse(self: Path, *arguments: object, **options: object) -> object:
        if self.name == "hours.txt":
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything: chmod proves nothing
    result = on_fake(folder)
    assert result.status == 1
    assert result.counts() == {"added": 2, "failed": 1}
    assert "hours.txt: permission denied" in result.out


def test_what_the_backend_refuses_is_a_failed_line(
    fake: FakeBackend, on_fake: CommandLine, folder: Path
) -> None:
    fake.refusals["hours.txt"] = (413, "The file is larger than 512 MiB.")
    result = on_fake(folder)
    assert result.status == 1
    assert result.counts() == {"added": 2, "failed": 1}
    assert "hours.txt: The file is larger than 512 MiB" in result.out


def test_more_files_than_one_page(on_fake: CommandLine, tmp_path: Path) -> None:
    for number in range(230):
        (tmp_path / f"{number}.txt").write_text(f"Văn bản số {number}\n", "utf-8")
    assert on_fake(tmp_path).counts() == {"added": 230}
    assert on_fake(tmp_path).counts() == {"unchanged": 230}


def test_a_run_after_a_break_waits_for_what_was_sent(
    fake: FakeBackend, on_fake: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.indexing.clear()

    def interrupt(_self: object) -> None:
        if len(fake.stores["kho"]) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("ingest.sending.Sender._look", interrupt)
    broken = on_fake(folder)
    assert broken.status == 130
    assert "again continues" in broken.err
    assert "Stopping" in broken.out
    monkeypatch.undo()
    fake.indexing.set()
    uploads = fake.requests["POST upload"]
    assert on_fake(folder).counts() == {"added": 3}
    assert fake.requests["POST upload"] == uploads


@pytest.mark.parametrize(
    ("status", "sha256", "expected"),
    [
        ("completed", None, {"unchanged": 3}),
        ("in_progress", None, {"unchanged": 3}),
        ("completed", "other bytes", {"failed": 3}),
        ("failed", None, {"failed": 3}),
    ],
)
def test_another_run_over_the_same_folder_was_later(
    fake: FakeBackend,
    on_fake: CommandLine,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    sha256: str | None,
    expected: dict[str, int],
) -> None:
    fake.indexing.clear()
    look = Sender._look

    def replace_first(self: Sender) -> None:
        with fake.lock:
            mine = fake.stores["kho"]
            if len(mine) == 3 and not fake.indexing.is_set():
                fake.indexing.set()
                for entry in mine:
                    fake.files[f"other-{entry.id}"] = fake.files.pop(entry.id)
                fake.stores["kho"] = [
                    Entry(
                        f"other-{entry.id}",
                        entry.attributes | ({"sha256": sha256} if sha256 else {}),
                        status,
                    )
                    for entry in mine
                ]
        look(self)

    monkeypatch.setattr(Sender, "_look", replace_first)
    result = on_fake(folder)
    assert result.counts() == expected
    assert result.status == ("failed" in expected)


def test_a_lost_connection_is_one_line(
    fake: FakeBackend, on_fake: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.client._RETRIES", 0)
    look = Sender._look

    def stop_first(self: Sender) -> None:
        if fake.uploaded.is_set():
            fake.stop()
        look(self)

    monkeypatch.setattr(Sender, "_look", stop_first)
    result = on_fake(folder)
    assert result.status == 1
    assert "run the same command again" in result.err
    assert result.err.count("\n") == 1


def test_a_wrong_key_is_one_line(
    fake: FakeBackend, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.key = "đúng".encode().hex()
    assert main([str(folder), "--url", fake.url, "--api-key", "wrong"]) == 2
    err = capsys.readouterr().err
    assert "--api-key" in err
    assert err.count("\n") == 1
    assert main([str(folder), "--url", fake.url, "--api-key", fake.key]) == 0


def test_nothing_at_the_url_given_starts_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--url", "http://127.0.0.1:1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ingest: Nothing answers at http://127.0.0.1:1")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "required: PATH"),
        (["--bogus", "x"], "--bogus"),
        (["x", "--url", "nonsense"], "--url='nonsense'"),
        (["x", "--url", "http://h:99999"], "--url="),
        (["x", "--api-key", "mật khẩu"], "--api-key"),
        (["x", "--store", " "], "--store"),
        (["không-có.md"], "does not exist"),
        (["a\0b"], "cannot be opened"),
        (["list", "extra"], "extra"),
    ],
)
def test_a_wrong_command_is_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err
    assert captured.err.count("\n") == 1


def test_a_folder_called_list(
    on_fake: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "a.txt").write_text("a\n")
    monkeypatch.chdir(tmp_path)
    assert on_fake("./list").counts() == {"added": 1}
    assert "list/a.txt" in on_fake("list").out
    assert on_fake("add", "list").counts() == {"unchanged": 1}


def test_an_empty_folder_says_what_is_known(on_fake: CommandLine, tmp_path: Path) -> None:
    result = on_fake(tmp_path)
    assert result.status == 0
    assert ".docx" in result.out


def test_skipped_files_are_said(
    on_fake: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "a photo.jpg").write_bytes(b"x")
    result = on_fake(folder)
    assert result.status == 0
    assert result.out.splitlines()[-1] == "Skipped 1 file of an unknown type: a photo.jpg"
    (folder / "con" / "old.doc").write_bytes(b"x")
    result = on_fake(folder)
    assert result.counts() == {"unchanged": 3, "skipped": 2}
    assert result.out.splitlines()[-1] == (
        "Skipped 2 files of unknown types: con/old.doc, a photo.jpg "
        "(old Office files: save as .docx, .xlsx, .pptx)"
    )


def test_one_folder_of_two_has_nothing_known(
    on_fake: CommandLine, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    result = on_fake(folder, tmp_path / "photos")
    assert (result.status, result.counts()) == (0, {"added": 3})
    assert f"No file of a known format is in {tmp_path}/photos: " in result.out


def test_watch_says_that_a_deleted_file_stays(
    on_fake: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "photo.jpg").write_bytes(b"x")

    def delete(_roots: object, **_options: object) -> Iterator[None]:
        (folder / "hours.txt").unlink()
        yield
        yield  # said once
        raise KeyboardInterrupt

    monkeypatch.setattr("ingest.main.changes", delete)
    shown = on_fake(folder, "--watch").out
    _, watched = shown.split("Watching for changes; Ctrl-C ends.\n")
    assert watched == "Gone from disk, but stays in the store (use --delete-missing): hours.txt\n"
    assert len(on_fake.stored()) == 3


def test_watch_follows_changes_until_interrupted(
    on_fake: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(_roots: object, **_options: object) -> Iterator[None]:
        (folder / "new.txt").write_text("new\n")
        yield
        yield  # nothing changed this time: nothing is shown
        raise KeyboardInterrupt

    monkeypatch.setattr("ingest.main.changes", twice)
    result = on_fake(folder, "--watch")
    assert result.status == 0
    assert result.out.count("Store kho at") == 1
    assert result.out.splitlines()[-1].endswith("  added 1")
    assert set(on_fake.stored()) == {"nghỉ phép.md", "hours.txt", "phones.csv", "new.txt"}


def test_watch_outlives_a_lost_backend_and_a_lost_folder(
    fake: FakeBackend, on_fake: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.client._RETRIES", 0)

    def lose_everything(_roots: object, **_options: object) -> Iterator[None]:
        away = folder.with_name("away")
        folder.rename(away)
        yield
        assert len(on_fake.stored()) == 3
        away.rename(folder)
        fake.stop()
        yield
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr("ingest.main.changes", lose_everything)
    result = on_fake(folder, "--watch", "--delete-missing")
    assert result.status == 1
    assert [line.split()[1] for line in result.err.splitlines()] == [str(folder).split()[0], "The"]


def test_a_name_that_is_not_text_does_not_end_the_run(on_fake: CommandLine, folder: Path) -> None:
    try:
        (Path(os.fsdecode(os.fsencode(folder) + b"/\xff\x1b[2J.txt"))).write_text("x\n")
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    result = on_fake(folder)
    assert result.status == 0
    assert "\x1b" not in result.out
    assert result.counts() == {"added": 4}
    assert on_fake(folder).counts() == {"unchanged": 4}
