"""Ctrl-C while a program is still importing: it ends at once, without a word, with status 130.

Imports the standard library alone: nothing must come before it.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

STATUS = 130
"""What a shell shows for a program that Ctrl-C ended."""


def end_quietly() -> None:
    """From now on, until `listen`. A Ctrl-C that whoever started this ignores stays ignored.

    Raised as an exception it would come out of the middle of some import as a traceback, or be
    swallowed there; nothing is open yet that would have to be closed.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def listen() -> None:
    """KeyboardInterrupt again, for a program that catches it."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(STATUS)
