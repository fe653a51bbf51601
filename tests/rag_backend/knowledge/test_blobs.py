"""Bytes on disk."""

from __future__ import annotations

import errno
import hashlib
import os
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rag_backend.errors import BadRequest, StorageBroken, StorageFull, TooLarge
from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.library import Library, safe_filename


async def parts(*given: bytes) -> AsyncIterator[bytes]:
    for part in given:
        yield part


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "files", max_bytes=2**20)


def stored(blobs: Blobs) -> list[str]:
    return sorted(path.name for path in blobs.path("x").parent.iterdir())


async def test_bytes_come_back_with_their_digest(blobs: Blobs) -> None:
    written = await blobs.write("file-1", parts(b"ab", b"", b"c"))
    assert blobs.path("file-1").read_bytes() == b"abc"
    assert (written.bytes, written.sha256) == (3, hashlib.sha256(b"abc").hexdigest())
    assert stored(blobs) == ["file-1"]
    blobs.delete("file-1")
    blobs.delete("file-1")
    assert stored(blobs) == []


async def test_an_empty_file_is_refused(blobs: Blobs) -> None:
    with pytest.raises(BadRequest, match="empty"):
        await blobs.write("file-1", parts(b""))
    assert stored(blobs) == []


async def test_a_file_over_the_limit_is_refused_and_leaves_nothing(blobs: Blobs) -> None:
    with pytest.raises(TooLarge, match="MAX_FILE_MB=1"):
        await blobs.write("file-1", parts(b"x" * 2**19, b"x" * 2**19, b"x"))
    assert stored(blobs) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_a_full_disk_is_said_and_leaves_nothing(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("rag_backend.knowledge.blobs.os.fsync", full)
    with pytest.raises(StorageFull, match="free some space"):
        await blobs.write("file-1", parts(b"abc"))
    assert stored(blobs) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
async def test_a_disk_that_is_full_for_a_small_file_is_said(blobs: Blobs) -> None:
    """Its bytes are held until the end, when closing the file tries to write them once more."""
    blobs.path("file-1.part").symlink_to("/dev/full")
    with pytest.raises(StorageFull, match="free some space"):
        await blobs.write("file-1", parts(b"a few bytes"))
    assert stored(blobs) == []


async def test_a_disk_that_cannot_be_written_to_is_said(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("rag_backend.knowledge.blobs.os.fsync", broken)
    with pytest.raises(StorageBroken, match="Read-only file system"):
        await blobs.write("file-1", parts(b"abc"))
    assert stored(blobs) == []
    (tmp_path / "occupied").write_text("a file")
    with pytest.raises(StorageBroken, match="DATA_DIR cannot be written to"):
        Blobs(tmp_path / "occupied", 2**20)


async def test_a_client_that_goes_away_leaves_nothing(blobs: Blobs) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield b"abc"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.write("file-1", cut())
    assert stored(blobs) == []


async def test_half_written_files_go_and_unknown_ones_are_kept_aside(
    blobs: Blobs, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("file-1", "file-2", "file-3.part"):
        blobs.path(name).write_bytes(b"x")
    blobs.path("lost+found").mkdir()
    blobs.set_aside_unknown(["file-1"])
    assert stored(blobs) == ["file-1", "lost", "lost+found"]
    assert (blobs.path("lost") / "file-2").read_bytes() == b"x"
    assert "1 stored files are not in the catalog" in caplog.text


def test_what_cannot_be_moved_does_not_stop_the_start(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_path: Path, _target: Path) -> None:
        raise PermissionError(errno.EACCES, "in use")

    blobs.path("file-1").write_bytes(b"x")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refuse)
        blobs.set_aside_unknown([])
    assert "cannot be moved" in caplog.text


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ("../../etc/passwd", "passwd"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("C:\\Users\\an\\Báo cáo.docx", "Báo cáo.docx"),
        (unicodedata.normalize("NFD", "Sổ tay.pdf"), "Sổ tay.pdf"),
        ("a\x00b\n.txt", "ab.txt"),
        (".env", "env"),
        ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("a\ud800b.txt", "ab.txt"),
    ],
)
def test_safe_filename(given: str, label: str) -> None:
    assert safe_filename(given) == label


async def test_a_hostile_name_never_touches_the_disk(library: Library, tmp_path: Path) -> None:
    file = await library.upload("../../../escaped.txt", "user_data", parts(b"abc"))
    assert file.filename == "escaped.txt"
    assert library.blobs.path(file.id).parent == tmp_path / "data" / "files"
    assert not list(tmp_path.rglob("escaped*"))
