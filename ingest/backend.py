"""The backend that the command talks to: one that answers, or a child started for the duration."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ingest.client import Client, health
from ingest.display import Report
from ingest.errors import CommandError
from ingest.settings import ClientSettings

_START_SECONDS = 600.0
_STOP_SECONDS = 30.0
_PAUSE = 0.2  # seconds between two looks at a starting backend


@contextmanager
def connect(settings: ClientSettings, report: Report) -> Iterator[Client]:
    """A client of a backend that answers.

    Raises:
        CommandError: Nothing answers and none may be started, or something else does.
    """
    url = settings.url or settings.default_url
    match health(url):
        case "silent" if settings.url is None:
            with started(url, report), Client(url, settings.api_key) as client:
                yield client
        case "silent":
            raise CommandError(
                f"Nothing answers at {url}: start the backend there, or correct --url or "
                "RAG_BACKEND_URL"
            )
        case "foreign":
            raise CommandError(
                f"Something answers at {url}, but not as this backend does: stop it, or give the "
                "backend's address with --url"
            )
        case "ready" | "starting":
            with Client(url, settings.api_key) as client:
                yield client


@contextmanager
def started(url: str, report: Report, command: Sequence[str] | None = None) -> Iterator[None]:
    """A backend as a child process, ready at entry and stopped at exit.

    Args:
        command: What to run instead of `python -m rag_backend.main --port PORT`.

    Raises:
        CommandError: It is not installed, or it ended while starting; its last line says why.
    """
    if command is None:
        if importlib.util.find_spec("rag_backend") is None or _lacks_server():
            raise CommandError(
                f"Nothing answers at {url}, and the backend is not installed here: give its "
                "address with --url, or install it with: pip install 'rag-backend[backend]'"
            )
        port = str(urlsplit(url).port)
        # On this machine only: nobody asked for a server on the network.
        server = ("-m", "rag_backend.main", "--host", "127.0.0.1", "--port", port)
        command = (sys.executable, *server)
    with tempfile.TemporaryDirectory(prefix="rag-backend-", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "backend.log"
        with log.open("wb") as output:
            # A session of its own: Ctrl-C must reach this command alone, which then stops the
            # child in order.
            child = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        try:
            with report.busy("Starting the backend …"):
                _await_ready(child, url, log)
            yield
        finally:
            _stop(child)


def _lacks_server() -> bool:
    """Plain installation brings the package's modules, but not what a server needs."""
    return any(importlib.util.find_spec(name) is None for name in ("fastapi", "chromadb"))


def _await_ready(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while health(url) != "ready":
        try:
            status = child.wait(_PAUSE)
        except subprocess.TimeoutExpired:
            status = None
        if status is not None:
            raise CommandError(
                f"The backend could not start: {_last_line(log) or f'exit status {status}'}"
            )
        if time.monotonic() > deadline:
            raise CommandError(
                f"The backend was not ready after {_START_SECONDS:.0f} seconds; its last line: "
                f"{_last_line(log) or 'none'}"
            )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    try:
        told = json.loads(last)  # a backend logs JSON where no person looks on
    except ValueError:
        return last
    return str(told.get("message", last)) if isinstance(told, dict) else last


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
