"""Units into groups of at most so many tokens: as few, as even and at as good places as can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

ENOUGH = 0.6
"""Share of the room from which a group is full enough to end at a paragraph."""
_SPARE = 0.1
"""Weight of the room left empty above that: of two ways alike, the fuller and more even one."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is not cut further.

    Attributes:
        start, end: Character span in the document's text.
        cost: Tokens it adds to a chunk.
        penalty: What it costs to end a chunk after it: 0 at a paragraph's end.
        page: 1-based page, or None.
    """

    start: int
    end: int
    cost: int
    penalty: float
    page: int | None


def coalesced(units: Iterable[Unit], least: int) -> list[Unit]:
    """Neighbours joined until none is below `least` tokens, so that a group has few members."""
    made: list[Unit] = []
    for unit in units:
        if made and made[-1].cost < least and unit.cost < least:
            last = made[-1]
            made[-1] = replace(last, end=unit.end, cost=last.cost + unit.cost, penalty=unit.penalty)
        else:
            made.append(unit)
    return made


def packed(units: Sequence[Unit], room: int) -> Iterator[Sequence[Unit]]:
    """Consecutive groups of at most `room` tokens with the least total cost.

    As TeX breaks a paragraph into lines: a group costs the squares of what it lacks to `ENOUGH` and
    (weighing little) to `room`, plus its last unit's penalty. Squares make neighbours even. A unit
    above `room` is a group of its own.
    """
    enough = ENOUGH * room
    best = [0.0]
    cut = [0]
    for end in range(1, len(units) + 1):
        total = 0
        lowest, at = float("inf"), end - 1
        for start in range(end - 1, -1, -1):
            total += units[start].cost
            if total > room and start < end - 1:
                break
            lacking = max(0.0, 1 - total / enough)
            spare = max(0.0, 1 - total / room)
            cost = best[start] + lacking * lacking + _SPARE * spare * spare
            if cost < lowest:
                lowest, at = cost, start
        best.append(lowest + units[end - 1].penalty)
        cut.append(at)
    bounds = [len(units)]
    while bounds[-1]:
        bounds.append(cut[bounds[-1]])
    for end, start in zip(bounds[-2::-1], bounds[:0:-1], strict=True):
        yield units[start:end]
