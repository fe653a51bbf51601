"""What a run decides to do, without a disk or a backend."""

from __future__ import annotations

from pathlib import Path

from ingest.client import Status, StoredFile
from ingest.folder import Found
from ingest.plan import Plan, make_plan

ROOT = Path("/docs")


def on_disk(path: str, content: str) -> Found:
    return Found(Path(path), path, content)


def stored(
    file_id: str, path: str | None, content: str, status: Status = "completed"
) -> StoredFile:
    return StoredFile(file_id, status, path, content, 0, None)


def plan(
    files: list[Found],
    entries: list[StoredFile],
    *,
    delete_missing: bool = True,
    there: tuple[str, ...] = (),
) -> Plan:
    return make_plan(
        files, there, entries, [ROOT], delete_missing=delete_missing, gone=lambda _path: True
    )


def steps(made: Plan) -> list[tuple[str, str, str | None]]:
    return [(job.outcome, job.step, job.stored.id if job.stored else None) for job in made.jobs]


def test_new_changed_and_unchanged() -> None:
    made = plan(
        [on_disk("/docs/a", "1"), on_disk("/docs/b", "2"), on_disk("/docs/c", "3")],
        [stored("A", "/docs/a", "1"), stored("B", "/docs/b", "old")],
    )
    assert made.unchanged == 1
    assert steps(made) == [("replaced", "upload", None), ("added", "upload", None)]
    assert made.removals == made.superseded == []


def test_what_failed_or_is_under_way_is_not_sent_again() -> None:
    made = plan(
        [on_disk("/docs/a", "1"), on_disk("/docs/b", "2"), on_disk("/docs/c", "3")],
        [
            stored("A", "/docs/a", "1", "failed"),
            stored("B", "/docs/b", "2", "in_progress"),
            stored("C1", "/docs/c", "old"),
            stored("C2", "/docs/c", "3", "cancelled"),
        ],
    )
    assert steps(made) == [
        ("added", "retry", "A"),
        ("added", "wait", "B"),
        ("replaced", "retry", "C2"),
    ]


def test_a_version_that_is_not_on_disk_any_more_is_superseded() -> None:
    made = plan(
        [on_disk("/docs/a", "1")],
        [stored("A1", "/docs/a", "1"), stored("A2", "/docs/a", "2", "failed")],
    )
    assert made.unchanged == 1
    assert [item.id for item in made.superseded] == ["A2"]


def test_a_file_with_the_bytes_of_a_missing_one_has_moved() -> None:
    made = plan(
        [on_disk("/docs/new/a", "1"), on_disk("/docs/z", "2")],
        [stored("A", "/docs/old/a", "1"), stored("B", "/docs/b", "2")],
    )
    assert steps(made) == [("moved", "relabel", "A"), ("moved", "rename", "B")]
    assert made.removals == []


def test_of_equal_files_the_one_of_the_same_name_has_moved() -> None:
    made = plan(
        [on_disk("/docs/new/a", "1"), on_disk("/docs/new/b", "1")],
        [stored("B", "/docs/b", "1"), stored("A", "/docs/a", "1")],
    )
    assert steps(made) == [("moved", "relabel", "A"), ("moved", "relabel", "B")]


def test_a_copy_of_a_file_that_is_still_there_is_new() -> None:
    made = plan(
        [on_disk("/docs/a", "1"), on_disk("/docs/copy", "1")], [stored("A", "/docs/a", "1")]
    )
    assert steps(made) == [("added", "upload", None)]


def test_only_completed_files_move() -> None:
    made = plan([on_disk("/docs/b", "1")], [stored("A", "/docs/a", "1", "failed")])
    assert steps(made) == [("added", "upload", None)]
    assert [item.id for item in made.removals] == ["A"]


def test_missing_files_go_only_when_asked_and_only_under_the_roots() -> None:
    entries = [
        stored("A", "/docs/a", "1"),
        stored("B", "/other/b", "2"),
        stored("C", None, "3"),
        stored("D", "/docs/unreadable", "4"),
    ]
    there = ("/docs/unreadable",)
    assert plan([], entries, delete_missing=False, there=there).removals == []
    assert [item.id for item in plan([], entries, there=there).removals] == ["A"]


def test_a_file_that_is_still_there_but_was_passed_over_is_kept() -> None:
    made = make_plan(
        [], (), [stored("A", "/docs/.a", "1")], [ROOT], delete_missing=True, gone=lambda _: False
    )
    assert made.removals == []
