"""PostgreSQL and Chroma servers of a test's own: started if they are installed, else a reason."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

_SERVE = "import sys; from chromadb.cli.cli import app; sys.exit(app())"
_PASSWORD = "p@ss/word"  # has to be written as p%40ss%2Fword
_FAST = "-c fsync=off -c full_page_writes=off"


class Missing(Exception):
    """A server is not installed, or cannot be started here; the text says why."""


class Postgres:
    """A cluster in a temporary directory, on a port of its own."""

    def __init__(self) -> None:
        self._programs = _postgres_programs()
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._as: Sequence[str] = ()
        if os.name == "posix" and os.getuid() == 0:  # PostgreSQL refuses to run as root
            self._as = ("runuser", "-u", "postgres", "--")
            shutil.chown(self._folder, "postgres")
        self.port = free_port()
        password = self._folder / "password"
        password.write_text(_PASSWORD + "\n")
        if self._as:
            shutil.chown(password, "postgres")
        self._call(
            *("initdb", "-D", str(self._folder / "data"), "-U", "rag", "-E", "UTF8"),
            *("--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"),
        )

    @property
    def url(self) -> str:
        """Of the database that the cluster begins with."""
        return f"postgresql://rag:p%40ss%2Fword@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._folder} {_FAST}"
        log = str(self._folder / "log")
        data = str(self._folder / "data")
        self._call("pg_ctl", "-D", data, "-w", "-t", "180", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop; `immediate` is as after a power cut, `fast` cuts connections in good order."""
        self._call("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", mode, "stop")

    def remove(self) -> None:
        """Stop, and delete everything."""
        with contextlib.suppress(Missing):
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _call(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._programs / program), *arguments]
        # Its children keep what they inherit open: their output goes nowhere.
        done = subprocess.run(
            command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            raise Missing(f"PostgreSQL: {program} {arguments[-1]} failed ({done.returncode})")


def _postgres_programs() -> Path:
    """The directory of initdb and pg_ctl; the newest of Debian's, else whatever is in PATH."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0),
    )
    anywhere = shutil.which("initdb")
    if found:
        return found[-1].parent
    if anywhere:
        return Path(anywhere).parent
    raise Missing("PostgreSQL is not installed (apt-get install postgresql)")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL server; raises Missing."""
    try:
        import psycopg  # noqa: F401
    except ModuleNotFoundError as error:
        raise Missing("psycopg is not installed (the extra `postgres`)") from error
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@contextmanager
def chroma(folder: Path) -> Iterator[str]:
    """The address of a Chroma server of the installed version; raises Missing."""
    port = free_port()
    arguments = ["run", "--host", "127.0.0.1", "--port", str(port), "--path", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        if not _answers(port, process):
            raise Missing("no Chroma server can be started here")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.05)
    return False
