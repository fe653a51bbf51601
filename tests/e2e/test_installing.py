"""Each part installs alone, into an empty environment, and starts."""

from __future__ import annotations

import subprocess
import sys
import time
import venv
from pathlib import Path

import httpx
import pytest

from tests.e2e.backend import PATIENCE, ROOT, environment
from tests.llm_offline.processes import free_port
from tests.tiny_model import build_tiny_llama

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

HELP = {
    "": ["-m", "ingest", "--help"],
    "backend": ["-m", "rag_backend.main", "--help"],
    "offline": ["-m", "llm_offline.main", "--help"],
    "dev": ["-m", "pytest", "--help"],
}
ABSENT = {
    "": ["torch", "chromadb", "fastapi"],
    "backend": [],
    "offline": ["chromadb", "tantivy"],
    "dev": ["torch"],
}


@pytest.mark.parametrize("extra", HELP, ids=lambda extra: extra or "plain")
def test_a_part_installs_alone(extra: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = "Scripts" if sys.platform == "win32" else "bin"
    python = str(tmp_path / "venv" / scripts / "python")
    wanted = f"{ROOT}[{extra}]" if extra else str(ROOT)
    constraints = str(ROOT / "constraints.txt")
    run([python, "-m", "pip", "install", "-q", "-c", constraints, wanted], tmp_path)
    assert "usage" in run([python, *HELP[extra]], tmp_path).lower()
    for name in ABSENT[extra]:
        found = run([python, "-c", f"import importlib.util as u; print(u.find_spec('{name}'))"])
        assert found.strip() == "None", f"[{extra}] must not pull {name}"
    if extra == "backend":
        starts([python, "-m", "rag_backend.main"], tmp_path)
    if extra == "offline":
        model = build_tiny_llama(tmp_path / "tiny-llama")
        starts([python, "-m", "llm_offline.main", "--model", str(model)], tmp_path)


def starts(command: list[str], folder: Path) -> None:
    """The server answers /health with 200, and stops when it is told to."""
    port, log = free_port(), folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=folder, env=bare(), stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline, log.read_text("utf-8")
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=10)
                if answer.json()["status"] == "ok":
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0, log.read_text("utf-8")


def run(command: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, env=bare(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bare() -> dict[str, str]:
    """Without the checkout on the path: only what was installed counts."""
    return {name: value for name, value in environment().items() if name != "PYTHONPATH"}
