"""The order of turns, never their time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from rag_backend.knowledge import turns as module
from rag_backend.knowledge.turns import Turns


class Crowd:
    """Threads that take a turn each and note their names in the order in which they had it."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._threads: list[threading.Thread] = []
        self.order: list[str] = []

    def join_line(self, name: str, *, urgent: bool) -> None:
        """Start a thread; returns once it waits."""
        before = sum(self._turns.waiting)

        def take() -> None:
            with self._turns.turn(urgent=urgent):
                self.order.append(name)

        thread = threading.Thread(target=take)
        self._threads.append(thread)
        thread.start()
        until(lambda: sum(self._turns.waiting) > before)

    def finish(self) -> list[str]:
        for thread in self._threads:
            thread.join(10)
        return self.order


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1_000_000):
        if condition():
            return
        threading.Event().wait(0.0001)
    raise AssertionError("it never happened")


def test_queries_go_before_documents_that_came_earlier() -> None:
    turns = Turns()
    crowd = Crowd(turns)
    with turns.turn(urgent=False):
        for name in ("d1", "d2"):
            crowd.join_line(name, urgent=False)
        for name in ("q1", "q2"):
            crowd.join_line(name, urgent=True)
    assert crowd.finish() == ["q1", "q2", "d1", "d2"]


def test_documents_are_not_starved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUERIES_IN_A_ROW", 2)
    turns = Turns()
    crowd = Crowd(turns)
    with turns.turn(urgent=False):
        crowd.join_line("d1", urgent=False)
        for name in ("q1", "q2", "q3"):
            crowd.join_line(name, urgent=True)
    assert crowd.finish() == ["q1", "q2", "d1", "q3"]


def test_as_many_at_once_as_there_are_places() -> None:
    turns = Turns(2)
    crowd = Crowd(turns)
    with turns.turn(urgent=False), turns.turn(urgent=False):
        crowd.join_line("d1", urgent=False)
        crowd.join_line("q1", urgent=True)
        assert crowd.order == []
        assert turns.waiting == (1, 1)
    assert sorted(crowd.finish()) == ["d1", "q1"]
    assert turns.waiting == (0, 0)


def test_a_failure_gives_the_turn_back() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.turn(urgent=True):
        raise KeyError
    with turns.turn(urgent=False):
        assert turns.waiting == (0, 0)
