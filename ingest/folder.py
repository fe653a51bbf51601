"""Folders on this machine: which files to send, under which identity, and what they contain."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ingest.errors import CommandError
from ingest.reading.formats import SUFFIXES, suffix_of

LONGEST_IDENTITY = 512
"""OpenAI's limit for the text value of an attribute, in characters."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A file or folder that cannot be used, and why in a few words."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """A file on disk. `identity` is what it is known by in the store; `sha256` is hexadecimal."""

    path: Path
    identity: str
    sha256: str


@dataclass(slots=True)
class Walk:
    """What a walk came across.

    Attributes:
        files: To be sent, by identity.
        problems: What cannot be used.
        skipped: Files of unknown formats, by their real path.
    """

    files: dict[str, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    skipped: dict[str, Path] = field(default_factory=dict)


def roots_of(arguments: Sequence[str]) -> list[Path]:
    """The paths given, absolute; raises CommandError when one of them does not exist."""
    roots: list[Path] = []
    for argument in arguments:
        root = Path(os.path.abspath(Path(argument).expanduser()))
        try:
            mode = root.stat().st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CommandError(f"{argument} does not exist: nothing was done") from error
        except (OSError, ValueError) as error:
            raise CommandError(f"{argument} cannot be opened: {_reason(error)}") from error
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise CommandError(f"{argument} is neither a file nor a folder: nothing was done")
        if root not in roots:
            roots.append(root)
    return roots


def walk(roots: Iterable[Path]) -> Walk:
    """Every file to send under the roots, in a stable order.

    Hidden entries, Office's lock files and unknown formats are passed over, the last not without
    being noted, except a file that is itself a root. Links are followed after everything that is
    really there, each file and folder once, so that a loop ends and what a link shows a second
    time is not sent twice.
    """
    found, seen = Walk(), set[str]()
    linked: deque[Path] = deque()
    for root in roots:
        if root.is_dir():
            _walk_folder(root, found, seen, linked)
        else:
            seen.add(os.path.realpath(root))
            _add(found, root)
    while linked:
        link = linked.popleft()
        real = os.path.realpath(link)
        if real in seen:
            continue
        if link.is_dir():
            _walk_folder(link, found, seen, linked)
        elif link.is_file():
            _take(link, real, found, seen)
    for real in found.skipped.keys() & seen:
        del found.skipped[real]  # passed over in its folder, but also given by its name
    return found


def bare(roots: Iterable[Path], found: Walk) -> list[Path]:
    """The folders among the roots in which a walk found no file to send."""
    folders = [root for root in roots if root.is_dir()]
    empty = [root for root in folders if not any(is_under(i, [root]) for i in found.files)]
    if not empty:
        return []
    # A folder given twice, once as a link, is walked once: only real paths show that it has files.
    real = [identity_of(Path(os.path.realpath(path))) for path in found.files.values()]
    return [r for r in empty if not any(is_under(i, [Path(os.path.realpath(r))]) for i in real)]


def is_wanted(name: str) -> bool:
    """Whether a file of this name is picked up when its folder is walked."""
    return not name.startswith((".", "~$")) and suffix_of(name) in SUFFIXES


def _walk_folder(top: Path, found: Walk, seen: set[str], linked: deque[Path]) -> None:
    folders = [top]
    while folders:
        folder = folders.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            found.problems.append(Problem(shown(identity_of(folder)), _reason(error)))
            continue
        below: list[Path] = []
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                linked.append(path)
            elif entry.is_dir():
                below.append(path)
            elif entry.is_file():
                _take(path, os.path.join(real, entry.name), found, seen)
        folders.extend(reversed(below))


def _take(path: Path, real: str, found: Walk, seen: set[str]) -> None:
    """Note a file that a walk came across."""
    if real in seen:
        return
    if is_wanted(path.name):
        seen.add(real)
        _add(found, path)
    elif not path.name.startswith("~$"):
        found.skipped[real] = path


def _add(found: Walk, path: Path) -> None:
    identity = identity_of(path)
    first = found.files.setdefault(identity, path)
    if first != path:
        found.problems.append(
            Problem(
                shown(identity), "another file here has the same name in Unicode's composed form"
            )
        )


class Digests:
    """SHA-256 of files; a file whose size and times stay the same is read once only."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], str]] = {}

    def of(self, path: Path) -> str:
        """The hexadecimal digest; raises OSError."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            state = (status.st_size, status.st_mtime_ns, status.st_ino)
            known = self._known.get(path)
            if known is None or known[0] != state:
                known = (state, hashlib.file_digest(file, "sha256").hexdigest())
                self._known[path] = known
        return known[1]

    def read(self, path: Path, identity: str) -> Found | Problem:
        """The file with its digest, or why it cannot be read."""
        try:
            return Found(path, identity, self.of(path))
        except OSError as error:
            return Problem(shown(identity), _reason(error))


def identity_of(path: Path) -> str:
    """An absolute path as text for the store: POSIX form, NFC, at most 512 characters.

    A longer path keeps its end, behind a hash of the whole. Bytes that are not UTF-8 become
    escapes, since JSON cannot carry them.
    """
    text = os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
    text = unicodedata.normalize("NFC", text)
    if len(text) <= LONGEST_IDENTITY:
        return text
    head = hashlib.sha256(text.encode()).hexdigest()[:16] + "…"
    return head + text[len(head) - LONGEST_IDENTITY :]


def is_under(identity: str, roots: Iterable[Path]) -> bool:
    """Whether a stored path is one of the roots or lies below one."""
    tops = [identity_of(root).rstrip("/") for root in roots]
    return any(identity == top or identity.startswith(top + "/") for top in tops)


def is_gone(identity: str) -> bool:
    """Whether nothing is at this path any more; a path that cannot be looked at is not gone."""
    return all(_is_gone(unicodedata.normalize(form, identity)) for form in ("NFC", "NFD"))


def _is_gone(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def shown(identity: str) -> str:
    """A path as a person wants to read it: relative where it lies under the working directory.

    Nothing in it can move a terminal's cursor or end the line.
    """
    here = identity_of(Path.cwd()).rstrip("/") + "/"
    return printable(identity.removeprefix(here))


def printable(text: str) -> str:
    """Text with every control character replaced."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, FileNotFoundError):
        return "it vanished while it was being read"
    text = error.strerror if isinstance(error, OSError) else None
    return (text or str(error)).lower()
