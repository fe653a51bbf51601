"""What a start says where a package is not installed, in the place of a traceback.

Imports the standard library alone: it must work where nothing else does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

_OURS = ("rag_backend", "ingest", "llm_offline")
_ROOT = Path(__file__).resolve().parent.parent


class Installed:
    """Around imports: a package that is missing ends the program with one sentence and status 1.

    A module of ours or of Python's own, or a part of a package that is there, is a defect and
    keeps its traceback.
    """

    def __init__(self, module: str, extra: str = "", root: Path = _ROOT) -> None:
        """
        Args:
            module: What is run with `python -m`.
            extra: The extra of pyproject.toml that it needs; "" for none.
            root: Where the packages lie; a checkout where pyproject.toml is beside them.
        """
        self._module = module
        self._extra = extra
        self._root = root

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, ModuleNotFoundError) and _is_package(error.name):
            raise SystemExit(f"{self._module.split('.')[0]}: {self._sentence(error)}") from None

    def _sentence(self, error: ModuleNotFoundError) -> str:
        missing = f"the package {error.name!r} is not installed in {sys.prefix}"
        python = _environment(self._root)
        if python is not None:
            return f"{missing}: run {_from_here(python)} -m {self._module}"
        needs = f'this needs the "{self._extra}" extra' if self._extra else "install what it needs"
        extra = f"[{self._extra}]" if self._extra else ""
        if not (self._root / "pyproject.toml").is_file():
            return f'{missing}; {needs}: python -m pip install ".{extra}" in its source folder'
        folder = _from_here(self._root)
        return f'{missing}; {needs}: {sys.executable} -m pip install -e "{folder}{extra}"'


def _is_package(name: str | None) -> bool:
    if not name or "." in name:
        return False
    return name not in _OURS and name not in sys.stdlib_module_names


def _environment(root: Path) -> Path | None:
    """The Python of the checkout's own environment; None where there is none or it runs this."""
    folder = root / ".venv"
    if not (root / "pyproject.toml").is_file() or Path(sys.prefix).resolve() == folder.resolve():
        return None
    found = (folder / "bin" / "python", folder / "Scripts" / "python.exe")
    return next((python for python in found if python.is_file()), None)


def _from_here(path: Path) -> str:
    """As a person in the working directory writes it."""
    here = Path.cwd().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
