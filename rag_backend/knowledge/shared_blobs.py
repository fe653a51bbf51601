"""Uploaded bytes that several backends share: in the catalog, and on each disk what it has used."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from rag_backend.errors import NotFound, RAGError
from rag_backend.knowledge.blobs import Blobs, Written, mapped_disk_errors
from rag_backend.knowledge.catalog import Catalog

_PART = 2**20
_SETTLED_SECONDS = 600.0
"""After this, an upload has been recorded, or never will be."""

log = logging.getLogger(__name__)


class SharedBlobs(Blobs):
    """A directory that is a cache of what the catalog holds."""

    def __init__(self, directory: Path, max_bytes: int, catalog: Catalog) -> None:
        super().__init__(directory, max_bytes)
        self._catalog = catalog
        self._began = time.time()

    async def write(self, file_id: str, parts: AsyncIterator[bytes]) -> Written:
        """See Blobs; the bytes are in the catalog before this returns."""
        written = await super().write(file_id, parts)
        path = self.path(file_id)
        try:
            await asyncio.to_thread(self._catalog.store_parts, file_id, _parts_of(path))
        except RAGError:
            path.unlink(missing_ok=True)
            raise
        return written

    def fetch(self, file_id: str) -> Path:
        """See Blobs; bytes that another backend has taken are brought here first."""
        path = self.path(file_id)
        if path.is_file():
            return path
        temporary = path.with_name(f"{file_id}-{secrets.token_hex(4)}.part")
        found = False
        try:
            with mapped_disk_errors(), temporary.open("wb") as target:
                for part in self._catalog.parts(file_id):
                    target.write(part)
                    found = True
            if not found:
                raise NotFound(
                    f"The bytes of {file_id} are gone from the catalog.", param="file_id"
                )
            with mapped_disk_errors():
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def delete(self, file_id: str) -> None:
        """Delete a file's bytes everywhere; the other disks follow (`forget_deleted`)."""
        self._catalog.delete_parts(file_id)
        super().delete(file_id)

    def set_aside_unknown(self, known: Iterable[str]) -> None:
        """Delete what an earlier life left and the catalog does not know: here it is a copy.

        An upload of this life may be on its way into the catalog.
        """
        keep = set(known)
        for path in self._copies():
            with suppress(FileNotFoundError):
                if path.name not in keep and path.stat().st_mtime < self._began:
                    path.unlink()

    def forget_deleted(self) -> None:
        """Delete copies of files that are deleted by now, whoever did it. Synchronous.

        A copy that has just been made is left alone: its upload may not be recorded yet.
        """
        try:
            newest = time.time() - _SETTLED_SECONDS
            old = [path for path in self._copies() if path.stat().st_mtime < newest]
            known = self._catalog.known_files([path.name for path in old])
            for path in old:
                if path.name not in known:
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("copies of deleted files cannot be removed: %s", error)

    def _copies(self) -> Iterator[Path]:
        return (path for path in self._directory.iterdir() if path.is_file())


def _parts_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while part := source.read(_PART):
            yield part
