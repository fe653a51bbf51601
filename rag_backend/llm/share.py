"""The threshold that sends a given share of recent questions to the strong provider."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

WINDOW = 256
"""Recent scores that the threshold is a quantile of."""

PRIOR = tuple(0.8 * ((i + 0.5) / 32) ** 2 for i in range(32))
"""What stands for traffic before there is any: 0 to 0.8, most of it low, as people mostly look
things up. These are forgotten first."""

GAIN = 0.02
"""How far one decision moves the quantile: little, so that the threshold is the window's."""

_ABOVE_ALL, _BELOW_ALL = 2.0, -1.0


class Judged(NamedTuple):
    """A decision; `tied`: the score was the threshold itself, and the share decided."""

    strong: bool
    threshold: float
    tied: bool


class Share:
    """Takes scores in order, says which are hard. Deterministic; memory is bounded.

    The threshold is the quantile of the last scores that leaves the target share above it. Scores
    that are equal to it are sent to either side so that the share comes out. The quantile itself
    follows the share that came about, as in adaptive conformal inference (Gibbs and Candès, 2021,
    https://arxiv.org/abs/2106.00170): each decision moves it by `GAIN` x (target - decision). It
    cannot leave [0, 1] by more than one step, as below 0 nothing is hard and above 1 everything,
    so after any n scores whatsoever the hard ones are `target * n`, give or take
    (1 + 2 GAIN) / GAIN = 52. What was decided otherwise (`forced`) counts, and may exceed that.
    """

    def __init__(
        self, target: float, *, window: int = WINDOW, prior: Sequence[float] = PRIOR
    ) -> None:
        """`target` in 0..1."""
        self._target = target
        self._level = target
        self._scores: deque[float] = deque(prior, maxlen=window)
        self._credit = 0.0
        self._recent: deque[bool] = deque(maxlen=window)

    @property
    def target(self) -> float:
        """The share that is aimed at."""
        return self._target

    @property
    def recent(self) -> float | None:
        """The share of the last decisions; None before there is any."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    @property
    def seen(self) -> int:
        """How many decisions `recent` looks back on."""
        return len(self._recent)

    @property
    def threshold(self) -> float:
        """In 0..1: scores above it are hard now."""
        return _within(self._quantile()[0])

    def judge(self, score: float) -> Judged:
        """Whether this score, in 0..1, is hard; it then belongs to the recent ones."""
        at, odds = self._quantile()
        tied = score == at
        if tied:
            self._credit += odds
        strong = score > at or (tied and self._credit >= 1)
        if tied and strong:
            self._credit -= 1
        self._take(score, strong)
        return Judged(strong, _within(at), tied)

    def forced(self, *, strong: bool) -> None:
        """Something else has decided: it counts as a score above, or below, all others."""
        self._take(_ABOVE_ALL if strong else _BELOW_ALL, strong)

    def _quantile(self) -> tuple[float, float]:
        """The threshold, and how many of the scores equal to it are to be hard, in 0..1."""
        if self._level <= 0:
            return _ABOVE_ALL, 0.0
        if self._level >= 1 or not self._scores:
            return _BELOW_ALL, 1.0
        ranked = sorted(self._scores, reverse=True)
        wanted = self._level * len(ranked)
        at = ranked[min(int(wanted), len(ranked) - 1)]
        above = sum(score > at for score in ranked)
        return at, (wanted - above) / ranked.count(at)

    def _take(self, score: float, strong: bool) -> None:
        self._scores.append(score)
        self._recent.append(strong)
        moved = self._level + GAIN * (self._target - strong)
        self._level = min(1 + GAIN, max(-GAIN, moved))


def _within(threshold: float) -> float:
    return min(1.0, max(0.0, threshold))
