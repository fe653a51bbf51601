"""The four commands, each against a connected backend."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from ingest.client import Client, ConnectionLost, NotThere, Refused, Store, StoredFile
from ingest.display import Report, name_of, number_of, show_files, some_of
from ingest.errors import CommandError
from ingest.folder import Digests, Found, Problem, Walk, bare, identity_of, is_under, shown, walk
from ingest.plan import Plan, emptied, make_plan
from ingest.reading.formats import SUFFIXES, suffix_of
from ingest.sending import SENDERS, Sender

_OLD_OFFICE = (".doc", ".xls", ".ppt")
_PAUSE = 0.5  # seconds between two looks at a store being rebuilt


def add(
    client: Client,
    store_name: str,
    roots: Sequence[Path],
    report: Report,
    *,
    delete_missing: bool = False,
    delete_all: bool = False,
    digests: Digests | None = None,
    told: set[str] | None = None,
) -> int:
    """Make the store hold the files under the roots as they are on disk.

    Args:
        delete_missing: Whether files that are gone from the disk are removed from the store.
        delete_all: The same, also where nothing is left of what the store has from a root.
        told: Paths of stored files whose absence from the disk is known; where given, it is
            brought up to date, and a quiet report says which are new.

    Returns:
        The exit status: 1 when a file failed.

    Raises:
        ConnectionLost, Refused: The run cannot go on; what was stored until then is stored.
        CommandError: Everything that the store has from a root would be removed; the rest is done.
    """
    delete_missing = delete_missing or delete_all
    with report.busy("Comparing files with the store …"):
        store = open_or_create(client, store_name)
        stored = client.stored_files(store)
        found = walk(roots)
        files = _read(found.files, digests or Digests(), report)
    for problem in found.problems:
        report.failed(problem)
    plan = make_plan(files, found.files, stored, roots, delete_missing=delete_missing)
    kept_back = None if delete_all or not delete_missing else _kept_back(plan, stored, roots)
    if kept_back is not None:
        plan.removals = []
    report.counts["unchanged"] = plan.unchanged
    _carry_out(plan, client, store, report)
    report.counts["skipped"] = len(found.skipped)
    report.notes += _notes(roots, found)
    report.summary(f"Store {store.name} at {client.url}")
    if told is not None and not delete_missing:
        _tell_missing(plan, told, report)
    if kept_back is not None:
        raise CommandError(kept_back)
    return 1 if report.failures else 0


def list_files(client: Client, store_name: str, report: Report) -> int:
    """Show what the store holds."""
    store = client.store(store_name)
    files = client.stored_files(store)
    show_files(report.console, store, files, _names(client, files))
    return 0


def remove(client: Client, store_name: str, targets: Sequence[str], report: Report) -> int:
    """Delete files by id, path, folder or name; all targets are resolved before any is deleted."""
    store = client.store(store_name)
    files = client.stored_files(store)
    names = _names(client, files)
    chosen: dict[str, StoredFile] = {}
    for target in targets:
        chosen.update((file.id, file) for file in _matching(target, files, names, store))
    for file in chosen.values():
        client.delete(file.id)
        report.say(f"removed   {name_of(file, names)}")
    return 0


def rebuild(client: Client, store_name: str, report: Report, *, every: bool = False) -> int:
    """Have the backend make the indexes of a store, or of all, anew, and wait for it.

    Raises:
        CommandError: It has stopped; the sentence says why.
    """
    stores = client.stores() if every else [client.store(store_name)]
    for store in stores:
        client.rebuild(store)
    for store in stores:
        _wait_for_rebuild(client, store, report)
    return 0


def _wait_for_rebuild(client: Client, store: Store, report: Report) -> None:
    waiting = threading.Event()
    with report.rebuilding(store.name) as show:
        while (found := client.store(store.id)).rebuild:
            if found.problem:
                raise CommandError(
                    f"Rebuilding the store {store.name} has stopped: {found.problem} The backend "
                    "tries again every minute, and at its next start"
                )
            show(*found.rebuild)
            waiting.wait(_PAUSE)
    report.say(f"The store {store.name} is rebuilt.")


def open_or_create(client: Client, name: str) -> Store:
    """The store of this name, made now if there is none."""
    try:
        return client.store(name)
    except NotThere:
        pass
    try:
        return client.create_store(name)
    except Refused as refusal:
        try:
            return client.store(name)  # another client was faster
        except NotThere:
            raise refusal from None  # "no such store" would not say why there is none


def _kept_back(plan: Plan, stored: Sequence[StoredFile], roots: Sequence[Path]) -> str | None:
    """Why nothing is to be removed; None where it may be."""
    gone = emptied(plan, stored, roots)
    if not gone:
        return None
    root, count = next(iter(gone.items()))
    all_of_them = "the only file" if count == 1 else f"all {count} files"
    return (
        f"Gone from {shown(identity_of(root))}: {all_of_them} that the store has from there; "
        "nothing was removed, since a drive or share may not be mounted (if it is meant, use "
        "--delete-all)"
    )


def _read(files: dict[str, Path], digests: Digests, report: Report) -> list[Found]:
    """Files with their digests; those that cannot be read are reported."""
    readable: list[Found] = []
    with ThreadPoolExecutor(SENDERS) as pool:
        for result in pool.map(digests.read, files.values(), files.keys()):
            if isinstance(result, Problem):
                report.failed(result)
            else:
                readable.append(result)
    return readable


def _notes(roots: Sequence[Path], found: Walk) -> list[str]:
    """What the walk passed over, and folders in which it found nothing at all."""
    notes: list[str] = []
    if found.skipped:
        # Old Office files first: these are documents, and something can be done about them.
        paths = sorted(found.skipped.values(), key=lambda p: (not _is_old_office(p), p))
        names = some_of([shown(identity_of(path)) for path in paths])
        kind = "an unknown type" if len(paths) == 1 else "unknown types"
        hint = (
            " (old Office files: save as .docx, .xlsx, .pptx)" if _is_old_office(paths[0]) else ""
        )
        notes.append(f"Skipped {number_of(paths)} of {kind}: {names}{hint}")
    known = " ".join(sorted(SUFFIXES))
    for root in bare(roots, found) if not found.problems else []:
        notes.append(f"No file of a known format is in {shown(identity_of(root))}: {known}")
    return notes


def _is_old_office(path: Path) -> bool:
    return suffix_of(path.name) in _OLD_OFFICE


def _tell_missing(plan: Plan, told: set[str], report: Report) -> None:
    """Say which stored files have vanished from the disk since the last run, each once."""
    missing = {item.path for item in plan.missing if item.path}
    new = sorted(missing - told)
    told.clear()
    told.update(missing)
    if new and report.quiet:
        stay = "stays" if len(new) == 1 else "stay"
        names = some_of([shown(path) for path in new])
        report.say(f"Gone from disk, but {stay} in the store (use --delete-missing): {names}")


def _carry_out(plan: Plan, client: Client, store: Store, report: Report) -> None:
    for item in plan.superseded:
        client.delete(item.id)
    try:
        with report.sending(len(plan.jobs)):
            Sender(client, store, report).run(plan.jobs)
    except ConnectionLost as error:
        ended = f"{sum(report.counts[o] for o in ('added', 'replaced', 'moved'))}"
        raise ConnectionLost(
            f"{error}: {ended} of {len(plan.jobs)} files were stored before; start the backend "
            "and run the same command again, which continues"
        ) from error
    for item in plan.removals:
        client.delete(item.id)
        report.count("removed", name_of(item, {}))


def _names(client: Client, files: Sequence[StoredFile]) -> dict[str, str]:
    """Names of the files that another client put into the store, without a path."""
    return client.filenames() if any(file.path is None for file in files) else {}


def _matching(
    target: str, files: Sequence[StoredFile], names: dict[str, str], store: Store
) -> list[StoredFile]:
    """What one argument of `remove` means; raises CommandError for nothing, or for a doubt."""
    if by_id := [file for file in files if file.id == target]:
        return by_id
    path = Path(os.path.abspath(Path(target).expanduser()))
    if under := [file for file in files if file.path and is_under(file.path, [path])]:
        return under
    by_name = [
        file
        for file in files
        if (PurePosixPath(file.path).name if file.path else names.get(file.id)) == _normal(target)
    ]
    places = sorted({name_of(file, names) if file.path else file.id for file in by_name})
    if len(places) > 1:
        raise CommandError(
            f"{len(places)} files are called {target}: give one of {', '.join(places)}"
        )
    if not by_name:
        raise CommandError(
            f"The store {store.name} holds no file {target}: nothing was removed "
            "(see python -m ingest list)"
        )
    return by_name


def _normal(name: str) -> str:
    return identity_of(Path("/") / name).removeprefix("/")
