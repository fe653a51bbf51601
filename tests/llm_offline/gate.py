"""Lets a server of `tests.llm_offline.faulty` compute step by step."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from pathlib import Path


class Gate:
    """Lets single steps pass."""

    def __init__(self, pipe: Path) -> None:
        self._pipe = os.open(pipe, os.O_RDWR)  # both ends, so that opening does not wait

    def open(self, steps: int) -> None:
        """Let so many more steps pass."""
        os.write(self._pipe, b"." * steps)

    @property
    def unused(self) -> int:
        """Steps that may still pass."""
        waiting = fcntl.ioctl(self._pipe, termios.FIONREAD, b"\0" * 4)
        return int(struct.unpack("i", waiting)[0])

    def close(self) -> None:
        """For the next test: nothing is left in it."""
        if self.unused:
            os.read(self._pipe, self.unused)
        os.close(self._pipe)
