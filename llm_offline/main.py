"""`python -m llm_offline.main`: takes the signals over, then imports all that serves."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from llm_offline.missing import sentence


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; the exit status is 0 then, and 1 if the start failed."""
    # The imports take a third of a second. Until the server has signals of its own, nothing is
    # open that must be closed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    try:
        from llm_offline.starting import start
    except ModuleNotFoundError as error:
        told = sentence(error)
        if told is None:
            raise
        print(f"llm_offline: {told}", file=sys.stderr)
        return 1
    return start(arguments)


if __name__ == "__main__":
    sys.exit(main())
