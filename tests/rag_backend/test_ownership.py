"""One process owns a data directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rag_backend.errors import StartError
from rag_backend.ownership import owned

OTHER = (
    "import sys\n"
    "from pathlib import Path\n"
    "from rag_backend.ownership import owned\n"
    "with owned(Path(sys.argv[1]), 4321):\n"
    "    print('mine', flush=True)\n"
    "    sys.stdin.readline()\n"
)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "a" / "data"


def test_it_is_ours_and_free_again(data_dir: Path) -> None:
    for _ in range(2):
        with owned(data_dir, 30000):
            told = json.loads((data_dir / "owner.json").read_text())
            assert told == {"pid": os.getpid(), "port": 30000}
        assert not (data_dir / "owner.json").exists()


def test_the_owner_is_named_and_dies(data_dir: Path) -> None:
    command = [sys.executable, "-c", OTHER, str(data_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(StartError) as refused, owned(data_dir, 30000):
            pass
        message = str(refused.value)
        assert f"process id {other.pid} on port 4321" in message
        assert f"DATA_DIR={data_dir}" in message
        other.kill()
    with owned(data_dir, 30000):  # what a killed owner leaves behind is no obstacle
        assert json.loads((data_dir / "owner.json").read_text())["pid"] == os.getpid()


def test_an_owner_that_left_no_name(data_dir: Path) -> None:
    with owned(data_dir, 1):
        (data_dir / "owner.json").write_text("garbage")
        with pytest.raises(StartError, match="another backend"), owned(data_dir, 2):
            pass


def test_a_directory_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        expected = pytest.raises(StartError, match=r"cannot be written to \(.*another DATA_DIR")
        with expected, owned(path, 1):
            pass


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_directory_without_the_right_to_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StartError, match="Permission denied"), owned(tmp_path / "data", 1):
        pass
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["catalog.sqlite", "catalog.sqlite-wal", "files", "chroma"])
def test_what_a_start_with_sudo_left_there(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with owned(data_dir, 1):
        pass
    (data_dir / name).touch()
    (data_dir / "lost+found").mkdir()
    # Root may write to everything, so that it cannot be told by rights.
    monkeypatch.setattr(
        os, "access", lambda path, _mode: Path(path).name not in (name, "lost+found")
    )
    with pytest.raises(StartError) as refused, owned(data_dir, 1):
        pass
    assert str(refused.value).startswith(
        f"{data_dir / name} in DATA_DIR={data_dir} cannot be written to (Permission denied): give"
    )
    (data_dir / name).unlink()
    with owned(data_dir, 1):  # the lock was let go
        pass
