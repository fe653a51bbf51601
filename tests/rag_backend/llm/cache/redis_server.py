"""Debian's redis-server as a process that a test may kill, freeze and start again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.ports import free_port

PATIENCE = 60
"""Seconds after which a condition that did not come true fails the test."""


class RedisServer:
    """One server on a port of its own; a context manager."""

    def __init__(self, folder: Path, *options: str) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
        self._folder = folder
        self._options = options
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it answers."""
        plain = ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1")
        command = ["redis-server", "--port", str(self.port), *plain, *self._options]
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)

    def kill(self) -> None:
        """Without a word, as when the power fails."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def command(self, *parts: str | bytes) -> bytes:
        """Send one command on a connection of its own; the answer as it came, at most 64 KiB."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            encoded = [part.encode() if isinstance(part, str) else part for part in parts]
            lines = [b"*%d\r\n" % len(encoded)]
            lines += [b"$%d\r\n%s\r\n" % (len(part), part) for part in encoded]
            connection.sendall(b"".join(lines))
            return connection.recv(65_536)

    def _answers(self) -> bool:
        try:
            return b"PONG" in (answer := self.command("PING")) or b"NOAUTH" in answer
        except OSError:
            return False
