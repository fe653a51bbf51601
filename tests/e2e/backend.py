"""The backend as users start it: a process of its own, and documents put in by the command line."""

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

import httpx
from openai import OpenAI

from tests.llm_offline.processes import free_port

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE = 180
"""Seconds after which a condition that did not come true fails the test."""


@dataclass
class BackendProcess:
    """A running `python -m rag_backend.main`."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path

    def output(self) -> str:
        return (self.folder / "backend.log").read_text("utf-8")

    def client(self) -> OpenAI:
        """The real SDK, with its own retries off: what is seen is what was answered."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)

    def until_ready(self) -> BackendProcess:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output()
            try:
                if httpx.get(f"{self.url}/health", timeout=10).json()["status"] == "ok":
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.output())

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def environment(**settings: str) -> dict[str, str]:
    """This machine's environment without any setting of ours but those given."""
    ours = ("LLM_", "OPENAI_", "LOCAL_LLM_", "RAG_BACKEND_", "API_KEYS", "CHROMA_", "DATA_DIR")
    ours += (
        "EMBEDDING_",
        "DATABASE_URL",
        "CACHE_",
        "SMART_",
        "MAX_",
        "CORS_",
        "ALLOW_",
        "HOST",
        "HEALTH_",
        "LOG_",
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    # Tests ask the same things again and again, and count who was asked: no cache unless named.
    plain = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "NO_COLOR": "1", "CACHE_URL": "none"}
    return clean | plain | settings


@contextmanager
def backend(folder: Path, **settings: str) -> Iterator[BackendProcess]:
    """Start the backend in `folder` (its working directory); stop it at the end."""
    with started(folder, **settings) as running:
        yield running.until_ready()


@contextmanager
def started(folder: Path, **settings: str) -> Iterator[BackendProcess]:
    """The same, without waiting for it to be ready."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with (folder / "backend.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "rag_backend.main", "--port", str(port)],
            cwd=folder,
            env=environment(**settings),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    running = BackendProcess(process, f"http://127.0.0.1:{port}", folder)
    try:
        yield running
    finally:
        running.stop()


def ingest(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`python -m ingest …` as a user types it."""
    return subprocess.run(
        [sys.executable, "-m", "ingest", *arguments],
        cwd=folder,
        env=environment() | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
