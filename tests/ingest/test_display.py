"""What the user sees, on terminals wide and narrow and in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from ingest.client import Store, StoredFile
from ingest.display import Report, show_files, some_of
from ingest.folder import Found, Problem
from ingest.plan import Job
from ingest.sending import Result

STORE = Store("vs_1", "kho", busy=False)
LONG = "/tài liệu/Phòng kế toán/Báo cáo quý 1 – số liệu doanh thu của chi nhánh Đà Nẵng.xlsx"


def console(width: int, *, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, highlight=False)


def text(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def result(path: str, error: str | None = None) -> Result:
    return Result(Job("added", "upload", Found(Path(path), path, "0")), error)


def run(report: Report) -> None:
    with report.sending(3):
        report.done(result("/a.md"))
        report.done(result("/b [bold]x[/bold].md"))
        report.done(result(LONG, "The workbook is encrypted: remove the password and try again."))
    report.summary("Store kho at http://127.0.0.1:30000")


def test_a_pipe_gets_whole_lines() -> None:
    shown = console(40, terminal=False)
    run(Report(shown))
    lines = text(shown).splitlines()
    assert lines[0] == "added     /a.md"
    assert lines[1] == "added     /b [bold]x[/bold].md"
    assert lines[-1].startswith(f"  {LONG}: The workbook")
    assert lines[-1].endswith("try again.")
    assert "\x1b" not in text(shown)
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_terminal_is_never_overrun(width: int) -> None:
    shown = console(width, terminal=True)
    run(Report(shown))
    plain = Console(file=io.StringIO(), width=1000, record=True)
    assert "3/3" in text(shown)
    for line in text(shown).replace("\r", "\n").splitlines():
        assert plain.measure(_unstyled(line)).maximum <= width


def _unstyled(line: str) -> str:
    return Text.from_ansi(line).plain


def test_the_summary_counts_everything() -> None:
    shown = console(80, terminal=False)
    report = Report(shown)
    report.counts["unchanged"] = 1200
    run(report)
    assert "  added         2" in text(shown)
    assert "  unchanged  1200" in text(shown)
    assert "  failed        1" in text(shown)


def test_a_quiet_run_without_change_shows_nothing() -> None:
    shown = console(80, terminal=False)
    report = Report(shown, quiet=True)
    with report.busy("Comparing"):
        report.counts["unchanged"] = 3
    report.summary("Store")
    assert text(shown) == ""
    report.failed(Problem("a", "b"))
    report.count("replaced", "c")
    report.summary("Store")
    assert "  replaced 1, failed 1\n1 file failed" in text(shown)


def test_a_list_for_people() -> None:
    shown = console(60, terminal=True)
    files = [
        StoredFile("file-1", "completed", LONG, "0", 2048, None),
        StoredFile("file-2", "failed", "/a.md", "0", 0, "The file is empty."),
        StoredFile("file-3", "in_progress", None, None, 0, None),
    ]
    show_files(shown, STORE, files, {"file-3": "hợp đồng.pdf"})
    for part in ("stored", "2 kB", "failed", "The file is empty.", "waiting", "hợp đồng.pdf"):
        assert part in text(shown)
    assert "3 files in the store kho" in _unstyled(text(shown))


def test_a_list_for_programs_says_why_a_file_failed() -> None:
    shown = console(40, terminal=False)
    files = [
        StoredFile("file-1", "completed", "/a.md", "0", 2048, None),
        StoredFile("file-2", "failed", "/b.pdf", "0", 0, "It has no text:\n scan it."),
        StoredFile("file-3", "failed", "/c.pdf", "0", 0, "long " * 100),
    ]
    show_files(shown, STORE, files, {})
    first, second, third = text(shown).splitlines()
    assert first == "completed\tfile-1\t/a.md"
    assert second == "failed\tfile-2\t/b.pdf\tIt has no text: scan it."
    assert third.endswith("long…")
    assert len(third) < 250


@pytest.mark.parametrize("terminal", [True, False])
def test_an_empty_list(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    shown = console(60, terminal=terminal)
    show_files(shown, STORE, [], {})
    assert text(shown) == ""
    assert capsys.readouterr() == ("", "The store 'kho' is empty.\n")


def test_others_are_stored_only_if_there_are_others() -> None:
    shown = console(80, terminal=False)
    report = Report(shown)
    report.failed(Problem("a", "b"))
    report.summary("Store")
    assert "\n1 file failed:\n" in text(shown)
    report.count("added", "c")
    report.summary("Store")
    assert "\n1 file failed; all others are stored:\n" in text(shown)


def test_a_few_of_many_names() -> None:
    assert some_of(["a", "b"]) == "a, b"
    assert some_of([*"abcdefg"]) == "a, b, c, d, e, 2 more"
