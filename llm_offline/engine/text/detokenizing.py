"""Token ids → text, piece by piece, never splitting a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
# A character has at most 4 bytes, so at most 4 byte tokens; what stays undecodable for longer is
# not text and must not hold the stream up.
_MOST_PENDING = 16

Decode = Callable[[Sequence[int]], str]
"""Text of some token ids, special tokens left out."""


class Detokenizer:
    """Turns one growing sequence into pieces whose concatenation is its text.

    A window of already shown tokens is decoded together with the new ones, because decoders
    look at neighbours (a space before a word, bytes of one character).
    """

    def __init__(self, decode: Decode, prompt: Sequence[int] = ()) -> None:
        """The last tokens of `prompt` give the first new token its context; they are not shown."""
        self._decode = decode
        self._tokens = list(prompt[-_MOST_PENDING:])
        self._window = 0
        self._shown = len(self._tokens)

    def push(self, token: int) -> str:
        """Take a token, return the text that is certain now; may be empty."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._window : self._shown])
        now = self._decode(self._tokens[self._window :])
        pending = len(self._tokens) - self._shown
        if now.endswith(_INCOMPLETE) and pending < _MOST_PENDING:
            return ""
        # The old window goes, so that decoding costs the same however long the text is.
        self._tokens = self._tokens[self._shown :]
        self._window, self._shown = 0, len(self._tokens)
        return now[len(before) :]

    def flush(self) -> str:
        """What was held back, less a character whose end never came."""
        before = self._decode(self._tokens[self._window : self._shown])
        now = self._decode(self._tokens[self._window :])
        return now[len(before) :].rstrip(_INCOMPLETE)
