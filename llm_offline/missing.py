"""What is said where a package is not installed, in the place of a traceback.

Imports the standard library alone: it must work where nothing else does.
"""

from __future__ import annotations

import sys
from pathlib import Path

_MODULE, _EXTRA = "llm_offline.main", "offline"
_PACKAGES = ("llm_offline", "rag_backend", "ingest")
_ROOT = Path(__file__).resolve().parent.parent


def sentence(error: ImportError, root: Path = _ROOT) -> str | None:
    """Which package is missing, and how to get it; None where the error is a defect.

    A module of ours or of Python's own, or a part of a package that is there, is one.

    Args:
        error: Of an import.
        root: Where our packages lie; a checkout where pyproject.toml is beside them.
    """
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    if not name or "." in name or name in _PACKAGES or name in sys.stdlib_module_names:
        return None
    return f"the package {name!r} is not installed in {sys.prefix}{_remedy(root)}"


def _remedy(root: Path) -> str:
    if not (root / "pyproject.toml").is_file():
        source = f'python -m pip install ".[{_EXTRA}]" in its source folder'
        return f'; this needs the "{_EXTRA}" extra: {source}'
    own = root / ".venv"
    pythons = (own / "bin" / "python", own / "Scripts" / "python.exe")
    python = next((one for one in pythons if one.is_file()), None)
    if python is not None and Path(sys.prefix).resolve() != own.resolve():
        return f": run {_from_here(python)} -m {_MODULE}"
    install = f'{sys.executable} -m pip install -e "{_from_here(root)}[{_EXTRA}]"'
    return f'; this needs the "{_EXTRA}" extra: {install}'


def _from_here(path: Path) -> str:
    """As a person in the working directory writes it."""
    here = Path.cwd().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
