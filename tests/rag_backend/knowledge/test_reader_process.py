"""What counts as a reading process' own work, by a clock and a process that are not real."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from rag_backend.knowledge.reader_process import Effort

TICK = 0.1


class Machine:
    """A clock, and a process on a machine that gives it so much of the processor."""

    def __init__(self) -> None:
        self.now = self.computed = 0.0
        self.state = psutil.STATUS_RUNNING
        self.effort = Effort(self, lambda: self.now, tells_states=True)

    def status(self) -> str:
        return self.state

    def cpu_times(self) -> SimpleNamespace:
        return SimpleNamespace(user=self.computed / 2, system=self.computed / 2)

    def passes(self, seconds: float, share: float = 0.0, looks_every: float = TICK) -> None:
        """Time passes, of which the process computes a share."""
        for _ in range(round(seconds / looks_every)):
            self.now += looks_every
            self.computed += looks_every * share
            self.effort.look()


def test_computing_counts() -> None:
    machine = Machine()
    machine.passes(100, share=1.0)
    assert machine.effort.spent == pytest.approx(100)


def test_waiting_for_a_processor_does_not() -> None:
    machine = Machine()
    machine.passes(3600, share=0.015)
    assert machine.effort.spent == pytest.approx(54)


def test_waiting_for_the_disk_does_not() -> None:
    machine = Machine()
    machine.state = psutil.STATUS_DISK_SLEEP
    machine.passes(3600)
    assert machine.effort.spent == 0


def test_waiting_for_what_never_comes_counts() -> None:
    machine = Machine()
    machine.state = psutil.STATUS_SLEEPING
    machine.passes(120)
    assert machine.effort.spent == pytest.approx(120)


def test_who_looks_seldom_counts_little() -> None:
    """The backend was starved, or the machine suspended: the process may have answered since."""
    machine = Machine()
    machine.state = psutil.STATUS_SLEEPING
    machine.passes(7200, looks_every=60)
    assert machine.effort.spent < 120


def test_who_is_stopped_spends_nothing_and_is_seen() -> None:
    machine = Machine()
    machine.state = psutil.STATUS_STOPPED
    machine.passes(11)
    assert machine.effort.spent == 0
    assert machine.effort.stopped == pytest.approx(11)
    machine.state = psutil.STATUS_RUNNING
    machine.passes(TICK, share=1.0)
    assert machine.effort.stopped == 0


def test_where_states_are_not_told_all_time_counts() -> None:
    machine = Machine()
    machine.effort = Effort(machine, lambda: machine.now, tells_states=False)
    machine.passes(120)
    assert machine.effort.spent == pytest.approx(120)
