"""Uploaded bytes on disk, named by file id alone: a client's file name never touches the disk."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rag_backend.errors import BadRequest, NotFound, StorageBroken, StorageFull, TooLarge

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """What was stored."""

    bytes: int
    sha256: str


class Blobs:
    """A flat directory of immutable files."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        with mapped_disk_errors():
            directory.mkdir(parents=True, exist_ok=True)

    def path(self, file_id: str) -> Path:
        """Where a file's bytes are, or will be."""
        return self._directory / file_id

    def fetch(self, file_id: str) -> Path:
        """Where a file's bytes are for certain; raises NotFound when they are gone."""
        path = self.path(file_id)
        if not path.is_file():
            raise NotFound(f"The bytes of {file_id} are gone from DATA_DIR.", param="file_id")
        return path

    async def write(self, file_id: str, parts: AsyncIterator[bytes]) -> Written:
        """Store a stream of bytes whole, or not at all.

        Raises:
            BadRequest: No bytes came.
            TooLarge: More came than MAX_FILE_MB.
            StorageFull, StorageBroken: The disk is full, or cannot be written to.
        """
        temporary = self._directory / f"{file_id}.part"
        digest, size = hashlib.sha256(), 0
        try:
            with _opened(temporary) as target:
                async for part in parts:
                    size += len(part)
                    if size > self._max_bytes:
                        limit = self._max_bytes // 2**20
                        raise TooLarge(
                            f"The file is larger than MAX_FILE_MB={limit}.", param="file"
                        )
                    await asyncio.to_thread(_append, target, part, digest)
                await asyncio.to_thread(_to_disk, target)
            if size == 0:
                raise BadRequest("The file is empty.", param="file", code="empty_file")
            with mapped_disk_errors():
                temporary.replace(self.path(file_id))
        finally:
            temporary.unlink(missing_ok=True)
        return Written(size, digest.hexdigest())

    def delete(self, file_id: str) -> None:
        """Delete a file's bytes, if they are there."""
        self.path(file_id).unlink(missing_ok=True)

    def set_aside_unknown(self, known: Iterable[str]) -> None:
        """Delete half-written bytes; move whole ones that no file owns into the folder `lost`.

        A crash between writing bytes and recording them leaves such a file. So does a catalog that
        was lost, or restored from a backup: then they are somebody's documents.
        """
        keep = set(known)
        unknown = [p for p in self._directory.iterdir() if p.name not in keep and p.is_file()]
        whole = [path for path in unknown if path.suffix != ".part"]
        lost = self._directory / "lost"
        try:
            for path in set(unknown) - set(whole):
                path.unlink(missing_ok=True)
            if whole:
                lost.mkdir(exist_ok=True)
            for path in whole:
                path.replace(lost / path.name)
        except OSError as error:
            log.warning("files that the catalog does not know cannot be moved: %s", error)
        if whole:
            log.warning(
                "%d stored files are not in the catalog; they are kept in %s. If the catalog was "
                "lost, ingest the documents again, or put its backup back and move them back.",
                len(whole),
                lost,
            )


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A new file; closing it writes what is still held, and fails as writing does."""
    with mapped_disk_errors():
        target = path.open("wb")
    try:
        yield target
    finally:
        with mapped_disk_errors():
            target.close()


def _append(target: IO[bytes], part: bytes, digest: hashlib._Hash) -> None:
    digest.update(part)
    with mapped_disk_errors():
        target.write(part)


def _to_disk(target: IO[bytes]) -> None:
    with mapped_disk_errors():
        target.flush()
        os.fsync(target.fileno())


@contextmanager
def mapped_disk_errors() -> Iterator[None]:
    """The disk's errors as this package's own: StorageFull, StorageBroken."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(
                "The disk that holds DATA_DIR is full: free some space, then try again."
            ) from error
        raise StorageBroken(
            f"DATA_DIR cannot be written to: {error.strerror or error}. Check its permissions and "
            "its disk."
        ) from error
