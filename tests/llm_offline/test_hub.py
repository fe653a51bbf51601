"""Models that cannot be downloaded; the download itself is in `test_start`."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from llm_offline import hub
from llm_offline.errors import StartError
from llm_offline.progress import Progress
from tests.llm_offline.fake_hub import FakeHub, fake_hub


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    with fake_hub() as server:
        server.release.set()
        original = hub.snapshot_download

        def at_the_fake(name: str, **options: Any) -> Any:
            return original(name, endpoint=server.url, cache_dir=tmp_path / "cache", **options)

        monkeypatch.setattr(hub, "snapshot_download", at_the_fake)
        yield server


def test_a_model_that_wants_an_agreement(remote: FakeHub) -> None:
    remote.gated.add("acme/gated")
    with pytest.raises(StartError, match=r"https://huggingface.co/acme/gated, then set HF_TOKEN"):
        hub.model_folder("acme/gated", Progress())


def test_a_model_that_does_not_exist(remote: FakeHub) -> None:
    with pytest.raises(StartError, match="no such public model on the hub: check the spelling"):
        hub.model_folder("acme/typo", Progress())


@pytest.fixture
def repository(remote: FakeHub, tmp_path: Path) -> Path:
    """A repository with pickled weights only."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    (folder / "training_args.bin").write_bytes(b"\x80")
    remote.repositories["acme/pickled"] = folder
    return folder


def _files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_pickled_weights_are_not_downloaded(remote: FakeHub, repository: Path) -> None:
    with pytest.raises(StartError, match=r"pickled ones are refused .* start with --allow-pickle"):
        hub.model_folder("acme/pickled", Progress())
    assert not any(path.endswith(".bin") for path in remote.requests)


def test_pickled_weights_where_they_are_allowed(remote: FakeHub, repository: Path) -> None:
    def folder(**more: Any) -> Path:
        return hub.model_folder("acme/pickled", Progress(), **more)

    found = folder(allow_pickle=True)
    assert _files(found) == {"config.json", "pytorch_model.bin"}
    remote.requests.clear()
    assert folder(allow_pickle=True) == found
    assert not remote.requests
    assert hub.cached_folder("acme/pickled") == found


def test_a_repository_without_weights(remote: FakeHub, repository: Path) -> None:
    (repository / "pytorch_model.bin").unlink()
    with pytest.raises(StartError, match="no weights, neither safetensors nor pytorch_model"):
        hub.model_folder("acme/pickled", Progress(), allow_pickle=True)


def test_safetensors_are_downloaded_where_there_are_both(remote: FakeHub, repository: Path) -> None:
    (repository / "model.safetensors").write_bytes(b"x" * 100)
    found = hub.model_folder("acme/pickled", Progress(), allow_pickle=True)
    assert _files(found) == {"config.json", "model.safetensors"}
    assert not any(path.endswith(".bin") for path in remote.requests)


def test_what_is_here_already(remote: FakeHub, tmp_path: Path) -> None:
    assert hub.cached_folder(str(tmp_path)) == tmp_path
    assert hub.cached_folder("acme/far") is None
    assert hub.cached_folder("./no/such") is None
    assert not remote.requests


def test_no_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    original = hub.snapshot_download

    def at_nobody(name: str, **options: Any) -> Any:
        url = "http://127.0.0.1:9"  # discard: nothing listens there
        return original(name, endpoint=url, cache_dir=tmp_path, **options)

    monkeypatch.setattr(hub, "snapshot_download", at_nobody)
    with pytest.raises(StartError) as refused:
        hub.model_folder("acme/far", Progress())
    assert "`hf download acme/far --local-dir FOLDER`" in str(refused.value)
    assert "give it as --model" in str(refused.value)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/home/a/.cache"),
            r"cannot be written \(.*/home/a/\.cache'\): set HF_HOME to a folder",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/cache"), "set HF_HOME to a folder"),
        # A firewall's, which is no file's.
        (PermissionError(errno.EACCES, "Permission denied"), "not in the download cache, and"),
    ],
)
def test_what_the_disk_refuses(
    monkeypatch: pytest.MonkeyPatch, error: OSError, sentence: str
) -> None:
    def refused(name: str, weights: str, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(hub, "_snapshot", refused)
    with pytest.raises(StartError, match=sentence):
        hub._download("acme/large", Progress(), "--model")
