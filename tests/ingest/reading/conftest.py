"""Bytes in, document out: the way every file takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.document import Document
from ingest.errors import UnreadableFile
from ingest.reading.registry import read

ReadBytes = Callable[[bytes, str], Document]
Refusal = Callable[[bytes, str], UnreadableFile]


@pytest.fixture
def read_bytes(tmp_path: Path) -> ReadBytes:
    """Read bytes as a file of the given name, stored under another one, as uploads are."""

    def call(data: bytes, name: str) -> Document:
        path = tmp_path / "upload.bin"
        path.write_bytes(data)
        return read(path, name)

    return call


@pytest.fixture
def refusal(read_bytes: ReadBytes) -> Refusal:
    """The error that reading such a file raises; one sentence that begins with its name."""

    def call(data: bytes, name: str) -> UnreadableFile:
        with pytest.raises(UnreadableFile) as caught:
            read_bytes(data, name)
        message = str(caught.value)
        assert message.startswith(name)
        assert message.endswith(".")
        assert "\n" not in message
        assert "Traceback" not in message
        return caught.value

    return call
