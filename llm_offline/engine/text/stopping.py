"""Stop strings: found across token borders, and never let out."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on, holding back what may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False
        """A stop string was found; everything after it is swallowed."""

    def push(self, text: str) -> str:
        """Take new text, return what can be shown: up to the first stop string.

        The first is the one whose end comes first, so that where the text is cut into pieces
        does not matter.
        """
        if self.hit:
            return ""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.hit = True
            return self._let_go(min(found)[1])
        return self._let_go(len(self._held) - self._beginning_of_a_stop())

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        return "" if self.hit else self._let_go(len(self._held))

    def _beginning_of_a_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = min(max((len(stop) for stop in self._stops), default=1) - 1, len(self._held))
        for length in range(longest, 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0

    def _let_go(self, length: int) -> str:
        shown, self._held = self._held[:length], self._held[length:]
        return shown
