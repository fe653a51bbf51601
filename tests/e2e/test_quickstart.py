"""`make run`'s script, as a newcomer runs it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.backend import PATIENCE, ROOT, environment
from tests.llm_offline.processes import free_port

pytestmark = pytest.mark.slow


def run_until_up(folder: Path, port: int) -> tuple[subprocess.Popen[bytes], Path]:
    log = folder / "quickstart.log"
    settings = {"PORT": str(port), "DATA_DIR": str(folder / "data"), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "quickstart.py")],
            cwd=folder,
            env=environment(**settings),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + PATIENCE
    while "Ctrl-C stops it" not in log.read_text("utf-8"):
        assert process.poll() is None, log.read_text("utf-8")
        assert time.monotonic() < deadline, log.read_text("utf-8")
        time.sleep(0.1)
    return process, log


def test_it_starts_ingests_asks_twice_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    port = free_port()
    process, log = run_until_up(tmp_path, port)
    shown = log.read_text("utf-8")
    assert "45,000 VND" in shown
    assert re.search(r"\[1\] Sổ tay giao thông\.pdf, page \d", shown)
    assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    # As a terminal does: Ctrl-C reaches the whole group.
    import os

    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 0, log.read_text("utf-8")
    assert "Traceback" not in log.read_text("utf-8")

    again, log = run_until_up(tmp_path, port)
    assert "handbook.md" in log.read_text("utf-8")
    assert "Added" not in log.read_text("utf-8")
    os.killpg(again.pid, signal.SIGINT)
    assert again.wait(PATIENCE) == 0
