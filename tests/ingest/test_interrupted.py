"""Ctrl-C in the middle of the first imports: the end, in silence, with status 130."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.backend import PATIENCE, ROOT, environment

STARTS = {
    "ingest": ["-m", "ingest", "list"],
    "rag_backend": ["-m", "rag_backend.main"],
    "quickstart": [str(ROOT / "scripts" / "quickstart.py")],
}
# A package that each of them imports, and that never comes to the end of its import here.
ENDLESS = "import sys\nprint('importing', flush=True)\nsys.stdin.read()\n"


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("ignored", [False, True])
def test_control_c_during_the_imports(name: str, ignored: bool, tmp_path: Path) -> None:
    for package in ("openai", "pydantic", "psutil"):
        (tmp_path / f"{package}.py").write_text(ENDLESS)
    before = signal.SIG_IGN if ignored else signal.SIG_DFL
    process = subprocess.Popen(
        [sys.executable, *STARTS[name]],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, before),
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        if ignored:  # as whoever started it wants; only its own end is waited for
            process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == (-signal.SIGTERM if ignored else 130)
    assert rest == b""
