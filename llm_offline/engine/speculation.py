"""Guessing the next tokens: where the text so far says what it said before, it may go on alike.

Answers from documents copy names, numbers and whole sentences from the prompt. A guess costs a
look-up; it is checked in the step that would have computed one token anyway. No rejection
sampling is needed: each position is drawn with noise of its own (`sampler`), so drawing tells
whether the guess was right, and the text is exactly what it would be without guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

MOST = 4
"""Guesses a step, for a sequence that runs alone."""

_LONG, _SHORT = 4, 2  # tokens that must be the same before a guess
# Below this share of right guesses they cost more than they save ...
_WORTH_IT = 0.3
# ... but the text may begin to copy: one step in so many tries again.
_TRY_EVERY = 16
# More rows than this keep the hardware busy without guesses.
_MOST_ROWS = 4


class Guesser(Protocol):
    """Guesses what one sequence says next."""

    def guess(self, rows: int) -> list[int]:
        """Tokens that may come, in a step of `rows` sequences; empty if it does not pay."""
        ...

    def judge(self, guessed: int, right: int) -> None:
        """The last guesses were `guessed`, of which the first `right` were right."""
        ...

    def extend(self, tokens: Sequence[int]) -> None:
        """The sequence grew by `tokens`."""
        ...


NewGuesser = Callable[[Sequence[int]], Guesser]
"""Makes one for a prompt."""


class PromptLookup:
    """Where each pair and quadruple of tokens last occurred in one sequence."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._right = 0.5  # share of right guesses, recent ones weigh more
        self._idle = 0
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """The sequence grew by `tokens`."""
        for token in tokens:
            # What ends here is found only once something follows it.
            end = len(self._tokens)
            for length in (_LONG, _SHORT):
                if end >= length:
                    self._after[tuple(self._tokens[end - length :])] = end
            self._tokens.append(token)

    def guess(self, rows: int) -> list[int]:
        """What followed the last tokens when they occurred before; empty if it does not pay."""
        if rows > _MOST_ROWS:
            return []
        if self._right < _WORTH_IT:
            self._idle += 1
            if self._idle < _TRY_EVERY:
                return []
            self._idle = 0
        most = max(1, MOST // rows)
        for length in (_LONG, _SHORT):
            at = self._after.get(tuple(self._tokens[-length:]))
            if at is not None and len(self._tokens) >= length:
                return self._tokens[at : at + most]
        return []

    def judge(self, guessed: int, right: int) -> None:
        """Learn how good the last guesses were."""
        if guessed:
            # The first wrong one ends a draft: those after it were not tried.
            tried = min(guessed, right + 1)
            self._right += 0.25 * (right / tried - self._right)
