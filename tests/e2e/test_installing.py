"""Each part installs alone, into an empty environment, and starts."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.e2e.backend import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PARTS = {
    "": (["-m", "ingest", "--help"], ["torch", "chromadb", "fastapi"]),
    "backend": (["-m", "rag_backend.main", "--help"], []),
    "offline": (["-m", "llm_offline.main", "--help"], ["chromadb", "tantivy"]),
}
STARTS = {
    "": "import ingest.main",
    "backend": (
        "from rag_backend.app import create_app; from rag_backend.settings import Settings; "
        "create_app(Settings(data_dir='data'))"
    ),
    "offline": "import llm_offline.app, llm_offline.loading, llm_offline.engine.causal_lm",
}


@pytest.mark.parametrize("extra", PARTS, ids=lambda extra: extra or "plain")
def test_a_part_installs_alone(extra: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = "Scripts" if sys.platform == "win32" else "bin"
    python = str(tmp_path / "venv" / scripts / "python")
    wanted = f"{ROOT}[{extra}]" if extra else str(ROOT)
    constraints = str(ROOT / "constraints.txt")
    run([python, "-m", "pip", "install", "-q", "-c", constraints, wanted], tmp_path)
    command, absent = PARTS[extra]
    assert "usage" in run([python, *command], tmp_path).lower()
    run([python, "-c", STARTS[extra]], tmp_path)
    for name in absent:
        found = run([python, "-c", f"import importlib.util as u; print(u.find_spec('{name}'))"])
        assert found.strip() == "None", f"[{extra}] must not pull {name}"


def run(command: list[str], folder: Path | None = None) -> str:
    clean = {k: v for k, v in environment().items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
