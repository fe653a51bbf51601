"""What a run has to do: the files on disk compared with those in the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from ingest.client import StoredFile
from ingest.folder import Found, is_gone, is_under

Outcome = Literal["added", "replaced", "moved", "unchanged", "removed", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Job:
    """One file that is to be in the store as it is on disk.

    Attributes:
        outcome: What it counts as once it is stored.
        step: `upload` its bytes; `retry` one that the store holds as failed; `wait` for one that
            is being indexed already; `relabel` one whose path alone has changed; `rename`: as
            `relabel`, then `upload`, since the file's name, which sources are cited by, is new.
        stored: The store's entry that the step works on; None for `upload`.
    """

    outcome: Outcome
    step: Literal["upload", "retry", "wait", "relabel", "rename"]
    file: Found
    stored: StoredFile | None = None


@dataclass(slots=True)
class Plan:
    """What a run has to do.

    Attributes:
        superseded: Entries that a completed one with the bytes on disk makes meaningless: to be
            deleted first.
        missing: Entries whose files no longer exist.
        removals: Those of them that are to be deleted, last.
    """

    jobs: list[Job] = field(default_factory=list)
    unchanged: int = 0
    superseded: list[StoredFile] = field(default_factory=list)
    missing: list[StoredFile] = field(default_factory=list)
    removals: list[StoredFile] = field(default_factory=list)


def make_plan(
    files: Sequence[Found],
    present: Iterable[str],
    stored: Iterable[StoredFile],
    roots: Sequence[Path],
    *,
    delete_missing: bool,
    gone: Callable[[str], bool] = is_gone,
) -> Plan:
    """Compare.

    Args:
        files: The readable files under the roots.
        present: Identities of all files under the roots, readable or not.
        stored: All files of the store.
        gone: Whether nothing is at a path any more.
    """
    entries: dict[str, list[StoredFile]] = defaultdict(list)
    for item in stored:
        if item.path is not None:
            entries[item.path].append(item)
    known = {*present, *(file.identity for file in files)}
    missing = _Missing(
        {
            path: versions
            for path, versions in entries.items()
            if path not in known and is_under(path, roots) and gone(path)
        }
    )
    plan = Plan()
    for file in files:
        if file.identity in entries:
            _compare(file, entries[file.identity], plan)
        else:
            _new(file, missing, plan)
    plan.missing = list(missing)
    plan.removals = plan.missing if delete_missing else []
    return plan


def emptied(plan: Plan, stored: Iterable[StoredFile], roots: Sequence[Path]) -> dict[Path, int]:
    """{root: how many files the store has from it} where every one of them is missing.

    A drive that is not mounted, or a share that is away, leaves an empty folder behind.
    """
    missing = {item.path for item in plan.missing}
    paths = {item.path for item in stored if item.path is not None}
    known = {root: {path for path in paths if is_under(path, [root])} for root in roots}
    return {root: len(below) for root, below in known.items() if below and below <= missing}


def _compare(file: Found, versions: Sequence[StoredFile], plan: Plan) -> None:
    """Decide about a file whose path the store knows, perhaps in several versions."""
    same = {item.status: item for item in versions if item.sha256 == file.sha256}
    if "completed" in same:
        plan.unchanged += 1
        plan.superseded += [item for item in versions if item is not same["completed"]]
        return
    replacing = any(item.status == "completed" for item in versions)
    outcome: Outcome = "replaced" if replacing else "added"
    if "in_progress" in same:
        plan.jobs.append(Job(outcome, "wait", file, same["in_progress"]))
    elif same:
        plan.jobs.append(Job(outcome, "retry", file, next(iter(same.values()))))
    else:
        plan.jobs.append(Job(outcome, "upload", file))


class _Missing:
    """Entries under the roots whose files are gone: to be given a new place, or removed."""

    def __init__(self, by_path: dict[str, list[StoredFile]]) -> None:
        self.by_path = by_path
        self._by_sha256: dict[str, list[StoredFile]] = defaultdict(list)
        for item in self:
            if item.status == "completed" and item.sha256:
                self._by_sha256[item.sha256].append(item)

    def __iter__(self) -> Iterator[StoredFile]:
        return (item for versions in self.by_path.values() for item in versions)

    def take(self, file: Found) -> tuple[StoredFile, list[StoredFile]] | None:
        """The entry with this file's bytes, of the same name if there is one, and its other
        versions; it is missing no longer."""
        candidates = self._by_sha256.get(file.sha256, [])
        candidates.sort(key=lambda item: _name(item.path) == _name(file.identity))
        while candidates:
            item = candidates.pop()
            versions = self.by_path.pop(item.path or "", [])
            if item in versions:
                return item, [other for other in versions if other is not item]
        return None


def _new(file: Found, missing: _Missing, plan: Plan) -> None:
    """Decide about a path that the store does not know: perhaps a missing file's new place."""
    match missing.take(file):
        case None:
            plan.jobs.append(Job("added", "upload", file))
        case item, others:
            plan.superseded += others
            same_name = _name(item.path) == _name(file.identity)
            plan.jobs.append(Job("moved", "relabel" if same_name else "rename", file, item))


def _name(path: str | None) -> str:
    return PurePosixPath(path or "").name
