"""What a start says where a package is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llm_offline.errors import StartError
from llm_offline.missing import sentence
from llm_offline.off_loop import OffLoop
from llm_offline.progress import Progress
from llm_offline.settings import Settings
from llm_offline.threads import Threads
from tests.llm_offline.puppets import PuppetLoader

ROOT = Path(__file__).parents[2]


def _missing(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def test_the_package_and_the_extra_are_named(checkout: Path) -> None:
    told = sentence(_missing("uvicorn"), checkout)
    assert told is not None
    assert told.startswith(f"the package 'uvicorn' is not installed in {sys.prefix}; ")
    assert 'this needs the "offline" extra: ' in told
    assert told.endswith('-m pip install -e ".[offline]"')


def test_the_environment_of_a_checkout_is_named(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    run = f": run {python.relative_to(checkout)} -m llm_offline.main"
    assert str(sentence(_missing("torch"), checkout)).endswith(run)
    monkeypatch.setattr(sys, "prefix", str(checkout / ".venv"))  # which lacks something itself
    assert "pip install -e" in str(sentence(_missing("torch"), checkout))


def test_what_is_no_checkout(tmp_path: Path) -> None:
    told = str(sentence(_missing("torch"), tmp_path))
    assert told.endswith('python -m pip install ".[offline]" in its source folder')


@pytest.mark.parametrize(
    "error",
    [
        _missing("llm_offline.nowhere"),
        _missing("llm_offline"),
        _missing("numpy.nowhere"),
        _missing("sqlite3"),
        ModuleNotFoundError("raised by hand"),
        ImportError("cannot import name", name="torch"),
    ],
    ids=repr,
)
def test_a_defect_is_none_of_it(error: ImportError) -> None:
    assert sentence(error) is None


async def test_a_package_that_only_loading_needs() -> None:
    class Loader(PuppetLoader):
        def weigh(self, settings: Settings, progress: Progress) -> None:  # type: ignore[override]
            raise _missing("llguidance")

    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    with pytest.raises(StartError, match=r"^the package 'llguidance' is not installed"):
        await OffLoop(Loader(), Threads()).weigh(settings, Progress())


def test_a_python_without_any_package(tmp_path: Path) -> None:
    # -S: without site-packages, as in an environment where nothing was installed.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "llm_offline.main", "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("llm_offline: the package '")
