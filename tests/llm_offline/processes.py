"""The server as users start it: a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 180
"""Seconds after which a condition that did not come true fails the test."""


@dataclass
class ServerProcess:
    """A running `python -m llm_offline.main`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def health(self) -> tuple[int, dict[str, Any]]:
        answer = httpx.get(f"{self.url}/health", timeout=30)
        return answer.status_code, answer.json()

    def until_ready(self) -> ServerProcess:
        self.until(lambda status, _: status == 200)
        return self

    def until(self, condition: Any) -> dict[str, Any]:
        """Ask `/health` until `condition(status, answer)`; the answer."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output()
            try:
                status, answer = self.health()
            except httpx.TransportError:
                continue
            if condition(status, answer):
                return answer
            time.sleep(0.02)
        raise AssertionError(f"it never happened; last answer {answer}\n{self.output()}")

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()


@contextmanager
def server(
    folder: Path,
    *flags: str,
    port: int | None = None,
    module: str = "llm_offline.main",
    **env: str,
) -> Iterator[ServerProcess]:
    """Start the server in `folder` (its working directory); stop it at the end."""
    port = port or free_port()
    log = folder / f"server-{port}.log"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LLM_OFFLINE_", "HF_"))}
    environment = clean | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUTF8": "1",
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # The models are tiny: more threads only wait for each other.
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--port", str(port), *flags],
            cwd=folder,
            env=environment | env,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    running = ServerProcess(process, port, log)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
