"""The directory of the embedded Chroma, from outside: what it leaves behind, and whether it is
still the one that was opened."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import UUID

log = logging.getLogger(__name__)


class ChromaFolder:
    """One directory; `opened` is called whenever Chroma has opened it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path / "chroma.sqlite3"
        self._inode: int | None = None

    def opened(self) -> None:
        """From now on this is the directory that belongs to the client."""
        self._inode = self._now()

    @property
    def replaced(self) -> bool:
        """Whether somebody has deleted it, or put another one in its place.

        Chroma notices nothing as long as it only reads: its files are open. Costs microseconds.
        """
        return self._now() != self._inode

    def set_aside(self) -> Path:
        """Move it out of the way of a new one, in place of what was set aside before."""
        aside = self.path.with_name(f"{self.path.name}-damaged")
        shutil.rmtree(aside, ignore_errors=True)
        self.path.rename(aside)
        return aside

    def remove_deleted(self) -> None:
        """Delete the index folders of collections that are gone: Chroma 1.5 leaves them on disk.

        A folder bears the id of its segment, which Chroma's own catalog lists as long as it is in
        use.
        """
        source = f"{self._file.absolute().as_uri()}?mode=ro"
        try:
            folders = [found for found in self.path.iterdir() if _is_uuid(found.name)]
            with closing(sqlite3.connect(source, uri=True)) as connection:
                used = {row[0] for row in connection.execute("SELECT id FROM segments")}
        except (OSError, sqlite3.Error) as error:
            log.warning("what Chroma left of deleted collections stays on disk: %s", error)
            return
        for folder in folders:
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)

    def _now(self) -> int | None:
        try:
            return self._file.stat().st_ino
        except OSError:
            return None


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
