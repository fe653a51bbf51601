"""The threshold: the share comes out, whatever the scores are."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest

from rag_backend.llm.share import GAIN, PRIOR, WINDOW, Share

BOUND = (1 + 2 * GAIN) / GAIN
TARGETS = (0.0, 0.05, 0.3, 0.5, 0.8, 1.0)


def _atoms(dice: random.Random) -> float:
    return dice.choice((0.1, 0.1, 0.1, 0.4, 0.9))


DISTRIBUTIONS: dict[str, Callable[[random.Random], float]] = {
    "uniform": lambda dice: dice.random(),
    "low": lambda dice: dice.random() ** 6,
    "high": lambda dice: 1 - dice.random() ** 6,
    "two humps": lambda dice: dice.betavariate(2, 20) if dice.random() < 0.7 else 0.8,
    "few values": _atoms,
    "one value": lambda _: 0.25,
    "all simple": lambda _: 0.0,
    "all hard": lambda _: 1.0,
    "heavy tail": lambda dice: min(1.0, dice.paretovariate(1.1) / 50),
}


def decisions(share: Share, scores: Sequence[float]) -> list[bool]:
    return [share.judge(score).strong for score in scores]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_share_converges_for_any_distribution(name: str, target: float) -> None:
    dice = random.Random(f"{name} {target}")
    told = decisions(Share(target), [DISTRIBUTIONS[name](dice) for _ in range(3000)])
    assert abs(sum(told) / 3000 - target) <= 0.02
    assert abs(sum(told[2000:]) / 1000 - target) <= 0.04


@pytest.mark.parametrize("target", TARGETS)
def test_no_sequence_escapes_the_bound(target: float) -> None:
    """Trends, blocks, alternation, and one that knows the threshold and plays against it."""
    dice = random.Random(7)
    n = 2000
    sequences = {
        "rising": [i / n for i in range(n)],
        "falling": [1 - i / n for i in range(n)],
        "blocks": [0.9 if i // 400 % 2 else 0.1 for i in range(n)],
        "alternating": [i % 2 / 2 for i in range(n)],
        "waves": [0.5 + 0.5 * math.sin(i / 90) for i in range(n)],
        "drifting": [min(1.0, i / n + dice.random() / 9) for i in range(n)],
    }
    for scores in sequences.values():
        share, strong = Share(target), 0
        for count, score in enumerate(scores, 1):
            strong += share.judge(score).strong
            assert abs(strong - target * count) <= BOUND
    for sign in (1, -1):
        share, strong = Share(target), 0
        for count in range(1, n):
            strong += share.judge(min(1.0, max(0.0, share.threshold + sign * 1e-6))).strong
            assert abs(strong - target * count) <= BOUND


def test_hard_ones_are_the_strong_ones() -> None:
    dice, share = random.Random(1), Share(0.3)
    scores = [dice.random() for _ in range(3000)]
    told = [(score, share.judge(score).strong) for score in scores][500:]
    assert sum(strong == (score > 0.7) for score, strong in told) / len(told) > 0.9


def test_before_there_is_traffic() -> None:
    share = Share(0.3)
    assert 0.3 < share.threshold < 0.5
    assert (share.recent, share.seen) == (None, 0)
    assert share.judge(0.05).strong is False
    assert share.judge(0.9).strong is True
    assert (share.recent, share.seen) == (0.5, 2)
    assert [Share(t).threshold for t in (0.0, 1.0)] == [1.0, 0.0]


def test_the_threshold_follows_recent_traffic_and_memory_is_bounded() -> None:
    share = Share(0.25)
    decisions(share, [0.5 + i % 100 / 1000 for i in range(5 * WINDOW)])
    assert 0.55 <= share.threshold <= 0.6
    decisions(share, [0.1 + i % 100 / 1000 for i in range(5 * WINDOW)])
    assert 0.15 <= share.threshold <= 0.2
    assert share.seen == len(share._scores) == WINDOW
    assert len(PRIOR) < WINDOW / 4


def test_what_was_decided_otherwise_counts() -> None:
    share = Share(0.3)
    strong = 0
    for i in range(3000):
        if i % 10 in (0, 5):  # a fifth needs the strong one anyway
            share.forced(strong=True)
            strong += 1
        else:
            strong += share.judge(random.Random(i).random()).strong
    assert abs(strong / 3000 - 0.3) < 0.03
    over = Share(0.1)
    for _ in range(500):
        over.forced(strong=True)
        assert not over.judge(0.5).strong


def test_the_same_traffic_is_judged_the_same() -> None:
    dice = random.Random(3)
    scores = [_atoms(dice) for _ in range(1000)]
    first, again = Share(0.4), Share(0.4)
    assert [first.judge(s) for s in scores] == [again.judge(s) for s in scores]


def test_ties_are_told() -> None:
    share = Share(0.5, prior=(0.2, 0.2, 0.2, 0.2))
    told = [share.judge(0.2) for _ in range(4)]
    assert all(one.tied and one.threshold == 0.2 for one in told)
    assert sorted(one.strong for one in told) == [False, False, True, True]
