"""`python -m tests.llm_offline.faulty FLAGS`: the server, with a model that fails on demand.

A request names its fault as a stop string, one of `FAULTS`; only steps that it takes part in are
concerned. `STEPWISE` makes them wait for a byte each from the named pipe `PIPE` in the working
directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence as Items
from functools import cache
from pathlib import Path

import torch

from llm_offline.engine import continuous
from llm_offline.engine.compute.runner import Runner
from llm_offline.engine.hardware.device import memory_errors
from llm_offline.engine.sequence import Drawn
from llm_offline.engine.step import Row
from llm_offline.main import main

FAULTS = (
    "fault: out of memory in prefill",
    "fault: out of memory in decode",
    "fault: exception in prefill",
    "fault: exception in decode",
)
FOR_A_WHILE = "fault: exception for a while"
"""From the next step on all fail, until the model was probed some times."""
STEPWISE = "fault: step by step"
PIPE = "steps"

_WHILE = 30


class Faults:
    """What goes wrong in a step, before it is computed."""

    def __init__(self) -> None:
        self._still_to_fail = 0

    def strike(self, rows: Items[Row]) -> None:
        for row in rows:
            for stop in row.sequence.request.stop:
                self._apply(stop, row)
        if self._still_to_fail:
            self._still_to_fail -= 1
            raise ZeroDivisionError("injected, for a while")

    def _apply(self, fault: str, row: Row) -> None:
        if fault == STEPWISE:
            os.read(_pipe(), 1)
        elif fault == FOR_A_WHILE and not self._still_to_fail:
            self._still_to_fail = _WHILE
        elif fault in FAULTS and fault.endswith("decode") == (row.sequence.produced > 1):
            if "memory" in fault:
                with memory_errors():
                    raise torch.OutOfMemoryError("CUDA out of memory, injected")
            raise ZeroDivisionError("injected")


@cache
def _pipe() -> int:
    return os.open(Path.cwd() / PIPE, os.O_RDONLY)


def install() -> None:
    """Wrap the runner's step; probe often."""
    faults, plain = Faults(), Runner.step

    def step(runner: Runner, rows: Items[Row]) -> list[Drawn]:
        faults.strike(rows)
        return plain(runner, rows)

    Runner.step = step  # type: ignore[method-assign]
    continuous.PROBE_EVERY = 0.05


if __name__ == "__main__":
    install()
    sys.exit(main())
