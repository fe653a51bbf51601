"""One process owns a data directory: Chroma and tantivy allow no more."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rag_backend.errors import StartError

_OURS = ("catalog.sqlite*", "chroma", "files", "lexical", "reading", "shared-*", "backend-id")
"""What a backend keeps in its directory; a disk of its own also has a `lost+found`."""


@contextmanager
def owned(data_dir: Path, port: int) -> Iterator[None]:
    """Own the directory while the context lasts; the system frees it when the process dies.

    Raises:
        StartError: Another process owns it (it is named), or it cannot be written to.
    """
    owner = data_dir / "owner.json"
    lock = FileLock(data_dir / "owner.lock")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        _check_what_is_there(data_dir)
        owner.write_text(json.dumps({"pid": os.getpid(), "port": port}))
    except Timeout as error:
        raise StartError(
            f"DATA_DIR={data_dir} is in use by {_described(owner)}: stop that process, or give "
            "this one a DATA_DIR of its own."
        ) from error
    except OSError as error:
        lock.release()
        raise StartError(
            f"{_place(data_dir, error)} cannot be written to ({error.strerror or error}): give "
            "this user the right to, or set another DATA_DIR."
        ) from error
    try:
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _check_what_is_there(data_dir: Path) -> None:
    """Raise PermissionError for what another user left here, as a start with sudo does: SQLite
    would open such a catalog, and fail at the first document."""
    for path in sorted(path for pattern in _OURS for path in data_dir.glob(pattern)):
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _place(data_dir: Path, error: OSError) -> str:
    inside = error.filename and Path(error.filename).parent == data_dir
    return f"{error.filename} in DATA_DIR={data_dir}" if inside else f"DATA_DIR={data_dir}"


def _described(owner: Path) -> str:
    try:
        known = json.loads(owner.read_text())
        return f"the backend with process id {known['pid']} on port {known['port']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another backend"
