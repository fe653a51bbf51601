"""What a start says where a package is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ingest.missing import Installed

ROOT = Path(__file__).parents[2]


def said(error: Exception, extra: str, root: Path) -> str:
    """What a program ends with where an import raises `error`; exit status 1."""
    with pytest.raises(SystemExit) as ended, Installed("rag_backend.main", extra, root):
        raise error
    assert isinstance(ended.value.code, str)  # which Python prints, and exits with 1
    return ended.value.code


def missing(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def test_the_package_and_the_extra_are_named(checkout: Path) -> None:
    sentence = said(missing("orjson"), "backend", checkout)
    assert sentence.startswith("rag_backend: the package 'orjson' is not installed in ")
    assert 'this needs the "backend" extra: ' in sentence
    assert sentence.endswith('-m pip install -e ".[backend]"')
    assert said(missing("openai"), "", checkout).endswith('-m pip install -e "."')


def test_from_elsewhere_the_folder_is_named(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    checkout_name = str(checkout.relative_to("/"))
    assert f'{checkout_name}[backend]"' in said(missing("orjson"), "backend", checkout)


def test_the_environment_of_a_checkout_is_named(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    sentence = said(missing("orjson"), "backend", checkout)
    assert sentence.endswith(f": run {python.relative_to(checkout)} -m rag_backend.main")


def test_its_own_environment_is_completed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr(sys, "prefix", str(checkout / ".venv"))
    assert "pip install -e" in said(missing("orjson"), "backend", checkout)


def test_what_is_no_checkout(tmp_path: Path) -> None:
    sentence = said(missing("orjson"), "backend", tmp_path)
    assert sentence.endswith('python -m pip install ".[backend]" in its source folder')


@pytest.mark.parametrize(
    "error",
    [
        missing("ingest.nowhere"),
        missing("rag_backend"),
        missing("numpy.nowhere"),
        missing("sqlite3"),
        ModuleNotFoundError("raised by hand"),
        ImportError("cannot import name", name="orjson"),
    ],
    ids=repr,
)
def test_a_defect_keeps_its_traceback(error: ImportError) -> None:
    with pytest.raises(ImportError) as raised, Installed("ingest"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("module", ["rag_backend.main", "ingest"])
def test_a_python_without_any_package(module: str, tmp_path: Path) -> None:
    # -S: without site-packages, as in an environment where nothing was installed.
    done = subprocess.run(
        [sys.executable, "-S", "-m", module, "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{module.split('.')[0]}: the package '")
