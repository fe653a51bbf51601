"""A model's name → a folder with its files: a local folder, the hub's cache, or a download.

The only module that imports huggingface_hub. What is in the cache is used without a connection.
"""

from __future__ import annotations

import errno
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from httpx2 import HTTPError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm  # type: ignore[import-untyped]

from llm_offline.errors import StartError, first_line
from llm_offline.progress import Progress

# Weights, and the small files around them; never other frameworks' weights, or the copy in the
# author's own format that some repositories carry in a folder.
_AROUND = ("*.json", "*.model", "*.txt", "*.jinja")
_SAFE, _PICKLED = "*.safetensors", "pytorch_model*.bin"
_UNWANTED = ["original/*", "onnx/*", "openvino/*", "gguf/*", "consolidated*"]
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_HUB_ID = re.compile(r"^[\w][\w.-]*(/[\w][\w.-]*)?$")


def model_folder(
    name: str,
    progress: Progress,
    *,
    flag: str = "--model",
    revision: str | None = None,
    allow_pickle: bool = False,
) -> Path:
    """The folder of a model, downloaded if need be.

    Args:
        name: A folder or a Hugging Face id.
        progress: Told how far a download is.
        flag: What the user set, for messages.
        revision: Branch, tag or commit on the hub; None is the main branch.
        allow_pickle: Take pickled weights where there are none in safetensors.

    Raises:
        StartError: There is no such folder, or the id cannot be had.
    """
    if (path := local_folder(name, flag=flag)) is not None:
        return path
    progress.enter("looking in the download cache")
    found = _cached(name, revision, _SAFE)
    if allow_pickle and (found is None or not any(found.glob(_SAFE))):
        found = _cached(name, revision, _PICKLED)
        found = found if found is not None and any(found.glob(_PICKLED)) else None
    return found or _download(name, progress, flag, revision, allow_pickle=allow_pickle)


def local_folder(name: str, *, flag: str = "--model") -> Path | None:
    """The folder that a name is; None where it is a Hugging Face id.

    Raises:
        StartError: It is neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        hint = "a GGUF file is for llama.cpp or Ollama; " if path.suffix == ".gguf" else ""
        raise StartError(
            f"{flag} {name}: this is a file; {hint}give the folder that holds config.json, the "
            "tokenizer and the safetensors files"
        )
    if not _HUB_ID.match(name):
        raise StartError(f"{flag} {name}: there is no such folder, and it is not a Hugging Face id")
    return None


def cached_folder(name: str) -> Path | None:
    """The folder of a model that is here already, of its main branch; None where it is not."""
    path = Path(name).expanduser()
    if path.is_dir() or not _HUB_ID.match(name):
        return path if path.is_dir() else None
    return _cached(name, None, _SAFE)


def _cached(name: str, revision: str | None, weights: str) -> Path | None:
    """What was downloaded before, if all of it is there."""
    try:
        return Path(_snapshot(name, weights, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _download(
    name: str,
    progress: Progress,
    flag: str,
    revision: str | None = None,
    *,
    allow_pickle: bool = False,
) -> Path:
    progress.enter("asking the hub for the list of files")
    try:
        weights, files = _listed(name, revision, _SAFE)
        if not files and allow_pickle:
            weights, files = _listed(name, revision, _PICKLED)
        if not files:
            raise StartError(f"{flag} {name}: {_no_weights(allow_pickle)}")
        progress.enter(
            "downloading", total=sum(file.file_size or 0 for file in files if file.will_download)
        )
        tell = _reporting_to(progress)
        return Path(_snapshot(name, weights, revision=revision, tqdm_class=tell))
    except (LocalEntryNotFoundError, DryRunError, HTTPError, OSError) as error:
        raise _told(name, flag, error) from error


def _listed(name: str, revision: str | None, weights: str) -> tuple[str, list[Any]]:
    """The pattern of weights, and the files to have; none where none are such weights."""
    files = _snapshot(name, weights, revision=revision, dry_run=True)
    there = any(fnmatch(Path(file.filename).name, weights) for file in files)
    return weights, list(files) if there else []


def _no_weights(allow_pickle: bool) -> str:
    if allow_pickle:
        return "the repository has no weights, neither safetensors nor pytorch_model.bin"
    return (
        "the repository has no safetensors weights, and pickled ones are refused because a pickle "
        "is a program: choose a model with safetensors, or, if you trust who made it, start with "
        "--allow-pickle"
    )


def _told(name: str, flag: str, error: Exception) -> StartError:
    """What went wrong between us and the hub, and the way out."""
    # The list of files is a "dry run", whose errors wrap the one that says what happened.
    cause = error.__cause__ if isinstance(error, DryRunError) and error.__cause__ else error
    if isinstance(cause, GatedRepoError):
        return StartError(
            f"{flag} {name}: its authors ask for an agreement and a token: accept it on "
            f"https://huggingface.co/{name}, then set HF_TOKEN or run `hf auth login`"
        )
    if isinstance(cause, RevisionNotFoundError):
        return StartError(
            f"{flag} {name}: the hub has no such revision of it: check the branch, tag or commit "
            "(--revision)"
        )
    # The hub says 401, not 404, to those it does not know.
    if isinstance(cause, RepositoryNotFoundError):
        return StartError(
            f"{flag} {name}: there is no such folder here and no such public model on the hub: "
            "check the spelling; for a private model set HF_TOKEN or run `hf auth login`"
        )
    if isinstance(cause, OSError) and cause.errno in _FULL:
        return StartError(f"{flag} {name}: the disk is full; the download needs more room")
    if isinstance(cause, OSError) and cause.errno in _UNWRITABLE and cause.filename is not None:
        return StartError(
            f"{flag} {name}: the download cache cannot be written ({_reason(cause)}): set HF_HOME "
            "to a folder that this user may write to"
        )
    return StartError(
        f"{flag} {name}: not in the download cache, and it cannot be downloaded "
        f"({_reason(cause)}); on a machine with internet run "
        f"`hf download {name} --local-dir FOLDER`, copy the folder here, and give it as {flag}"
    )


def _snapshot(name: str, weights: str, **options: Any) -> Any:
    wanted = [*_AROUND, weights]
    return snapshot_download(name, allow_patterns=wanted, ignore_patterns=_UNWANTED, **options)


def _reason(error: BaseException) -> str:
    """What went wrong underneath."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _reporting_to(progress: Progress) -> type[Any]:
    """A progress bar that shows nothing and reports bytes written to `progress`."""

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            # Of the bars that the hub's client makes, only this one counts bytes on the disk.
            description = str(options.get("desc", ""))
            self._counts = description.startswith("Reconstructing")
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts:
                progress.advance(int(n or 0))
            return None

    return Bar
