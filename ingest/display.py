"""What the command line shows: a bar on a terminal, plain lines elsewhere, a summary on both."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from datetime import datetime
from typing import get_args

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from ingest.client import Store, StoredFile
from ingest.folder import Problem, printable, shown
from ingest.plan import Outcome
from ingest.sending import Result

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_CHANGES = tuple(outcome for outcome in OUTCOMES if outcome not in ("unchanged", "skipped"))
_NAMED = 5  # files that one line names


class Report:
    """Collects what happens in a run, and shows it as it does."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        """`quiet`: one line for a run that changes something, nothing for any other.

        `notes` are lines of the full summary.
        """
        self.quiet = quiet
        self.console = console or Console(highlight=False)
        self.counts: Counter[Outcome] = Counter()
        self.failures: list[Problem] = []
        self.notes: list[str] = []
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def say(self, text: str, style: str = "") -> None:
        """One line; never broken where it is read by a program."""
        self.console.print(Text(printable(text), style), soft_wrap=not self.console.is_terminal)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Something that takes a while and whose length is unknown."""
        if self.console.is_terminal:
            with self.console.status(Text(text)):
                yield
        else:
            if not self.quiet:
                self.say(text)
            yield

    @contextmanager
    def sending(self, total: int) -> Iterator[None]:
        """The bar, while `done` is called `total` times."""
        if not (self.console.is_terminal and total):
            yield
            return
        title = [TextColumn("Ingesting")] if self.console.width >= 60 else []
        self._progress = Progress(
            *title,
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            _RateColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            console=self.console,
            expand=True,
        )
        try:
            with self._progress:
                self._task = self._progress.add_task("", total=total)
                yield
        finally:
            self._progress = None

    @contextmanager
    def rebuilding(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """How far a store is rebuilt: call with (chunks done, chunks in all)."""
        title = f"Rebuilding the store {name} …"
        if not self.console.is_terminal:
            self.say(title)
            yield lambda _done, _total: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self.console) as bar:
            task = bar.add_task(escape(printable(title)), total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)

    def done(self, result: Result) -> None:
        """A job has ended."""
        name = shown(result.job.file.identity)
        if result.error is not None:
            self.failed(Problem(name, result.error))
        else:
            self.count(result.job.outcome, name)
        if self._progress is not None:
            self._progress.advance(self._task)

    def count(self, outcome: Outcome, name: str) -> None:
        """A file has come to its end; a line where there is no bar."""
        self.counts[outcome] += 1
        if not self.console.is_terminal:
            self.say(f"{outcome:<9} {name}")

    def failed(self, problem: Problem) -> None:
        """A file failed: said at once, and again at the end."""
        self.counts["failed"] += 1
        self.failures.append(problem)
        self.say(f"failed    {problem.name}", "red")

    def stopping(self) -> None:
        """The user has interrupted."""
        self.say("Stopping: files on their way are still sent. Ctrl-C again stops at once.")

    def summary(self, place: str) -> None:
        """How the run ended, with every file that failed and why."""
        if self.quiet:
            self._short_summary()
        else:
            self._full_summary(place)
        if self.failures:
            stored = any(self.counts[o] for o in ("added", "replaced", "moved", "unchanged"))
            others = "; all others are stored" if stored else ""
            self.say(f"{number_of(self.failures)} failed{others}:", "bold red")
        for problem in self.failures:
            self._show(problem)

    def _short_summary(self) -> None:
        changes = [f"{o} {self.counts[o]}" for o in _CHANGES if self.counts[o]]
        if changes:
            self.say(f"{datetime.now():%H:%M:%S}  {', '.join(changes)}")

    def _full_summary(self, place: str) -> None:
        self.say(place)
        width = max(len(str(self.counts[outcome])) for outcome in OUTCOMES)
        for outcome in OUTCOMES:
            number = self.counts[outcome]
            style = "dim" if not number else "bold red" if outcome == "failed" else "bold"
            self.say(f"  {outcome:<9}  {number:>{width}}", style)
        for note in self.notes:
            self.say(note)

    def _show(self, problem: Problem) -> None:
        if self.console.is_terminal:
            self.console.print(Padding(Text(printable(problem.name)), (0, 0, 0, 2)))
            self.console.print(Padding(Text(printable(problem.reason), "red"), (0, 0, 0, 4)))
        else:
            self.say(f"  {problem.name}: {problem.reason}")


class _RateColumn(ProgressColumn):
    """Files a second."""

    def render(self, task: Task) -> Text:
        """As many digits as say something."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("– files/s", "dim")
        return Text(f"{speed:.0f} files/s" if speed >= 10 else f"{speed:.1f} files/s", "dim")


def show_files(
    console: Console, store: Store, files: Sequence[StoredFile], names: dict[str, str]
) -> None:
    """A store's files: a table on a terminal, elsewhere `status, id, name` between tabs, and
    as a fourth column why a file failed.

    That there are none is said on stderr, where no program takes it for a file.

    Args:
        names: What files without a path are called, by id.
    """
    listed = sorted(((name_of(file, names), file) for file in files), key=lambda pair: pair[0])
    if not listed:
        print(f"The store {printable(store.name)!r} is empty.", file=sys.stderr)
        return
    if not console.is_terminal:
        for name, file in listed:
            # Not through the console: it would turn tabs into spaces.
            why = [_reason(file.error)] if file.error else []
            print(file.status, file.id, printable(name), *why, sep="\t", file=console.file)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("Status", no_wrap=True)
    table.add_column("File", overflow="fold", ratio=1)
    table.add_column("Text", justify="right", no_wrap=True)
    for name, file in listed:
        cell = Text(printable(name))
        if file.error:
            cell.append(f"\n{_reason(file.error)}", "red")
        style = {"completed": "green", "failed": "red"}.get(file.status, "yellow")
        table.add_row(Text(_STATUS.get(file.status, file.status), style), cell, _size(file))
    console.print(table)
    console.print(Text(f"{number_of(listed)} in the store {store.name}", "dim"))


_STATUS = {"completed": "stored", "in_progress": "waiting"}
_LONGEST_REASON = 200


def _reason(error: str) -> str:
    """Why a file failed, on one line; what goes on for long is cut."""
    line = printable(" ".join(error.split()))
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 1].rstrip()}…"


def number_of(files: Sized) -> str:
    """`1 file`, `2 files`."""
    return "1 file" if len(files) == 1 else f"{len(files)} files"


def some_of(names: Sequence[str]) -> str:
    """The first few names, and how many there are besides."""
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more])


def name_of(file: StoredFile, names: dict[str, str]) -> str:
    """A stored file's path as a person wants to read it, else its name, else its id."""
    return shown(file.path) if file.path else names.get(file.id, file.id)


def _size(file: StoredFile) -> str:
    if file.status != "completed":
        return ""
    if file.usage_bytes < 1024:
        return f"{file.usage_bytes} B"
    kib = file.usage_bytes / 1024
    return f"{kib:.0f} kB" if kib < 1000 else f"{kib / 1024:.1f} MB"
