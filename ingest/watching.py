"""Wait for changes on disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from watchfiles import Change, watch

from ingest.folder import is_wanted

_EVERY_MS = 2000


def changes(roots: Sequence[Path], *, retry: threading.Event) -> Iterator[None]:
    """Yield each time something under the roots may have changed, until interrupted.

    Args:
        retry: When set, the next look counts as a change: the run before could not be finished.
    """
    folders = [root for root in roots if root.is_dir()]
    files = [root for root in roots if root not in folders]
    states = [_state(file) for file in files]
    for seen in _ticks(folders):
        # A file given by name is asked after, not watched: editors put a new file in its place.
        now = [_state(file) for file in files]
        if seen or now != states or retry.is_set():
            states = now
            retry.clear()
            yield


def _ticks(folders: Sequence[Path]) -> Iterator[bool]:
    """Whether there was a change below the folders, at least every two seconds."""
    if not folders:
        pause = threading.Event()
        while True:
            pause.wait(_EVERY_MS / 1000)
            yield False
    for seen in watch(
        *folders, watch_filter=_matters, rust_timeout=_EVERY_MS, yield_on_timeout=True
    ):
        yield bool(seen)


def _matters(change: Change, path: str) -> bool:
    """Whether a change can touch a file that is ingested; folders come and go with their files."""
    name = os.path.basename(path)
    if name.startswith("."):
        return False
    return is_wanted(name) or change is Change.deleted or os.path.isdir(path)


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
