"""Texts that are longer than an encoder reads: pieces, whose vectors together stand for the whole.

Chunks are cut for the encoder that a store has; one that it is re-embedded with may read less.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Spans = Callable[[str], Sequence[tuple[int, int]]]
"""Where in a text each of its tokens begins and ends."""


def pieces(text: str, spans: Spans, most: int) -> list[str]:
    """The text cut at borders of tokens, between words where it can be, into even pieces.

    None has more than `most` tokens; together they are the text.
    """
    places = spans(text)
    if len(places) <= most or len(text) < 2:
        return [text]
    number = -(-len(places) // most)
    cut = _border(text, places, -(-len(places) // number), most) or len(text) // 2
    # Both are looked at again: half a word may have more tokens than it had in the whole one.
    return pieces(text[:cut], spans, most) + pieces(text[cut:], spans, most)


def _border(text: str, places: Sequence[tuple[int, int]], wanted: int, most: int) -> int:
    """Where to cut after about `wanted` tokens; 0 where there is no border."""
    candidates = range(max(1, wanted // 2), min(most, len(places) - 1) + 1)
    between_words = [n for n in candidates if text[places[n][0] - 1].isspace()]
    nearest = sorted(between_words or candidates, key=lambda n: abs(n - wanted))
    return next((places[n][0] for n in nearest if 0 < places[n][0] < len(text)), 0)


def halves(text: str) -> list[str]:
    """Two parts, cut at the space nearest to the middle, if there is one nearby."""
    middle = len(text) // 2
    reach = len(text) // 4
    spaces = [m.start() for m in re.finditer(r"\s", text[middle - reach : middle + reach])]
    cut = min((middle - reach + s for s in spaces), key=lambda s: abs(s - middle), default=middle)
    return [text[:cut], text[cut:]]


def halved(text: str, fits: Callable[[str], bool]) -> Iterator[str]:
    """The text in parts that fit, where tokens are not known."""
    if fits(text) or len(text) < 2:
        yield text
        return
    for half in halves(text):
        yield from halved(half, fits)


def averaged(rows: Vectors, cut: Sequence[Sequence[str]]) -> Vectors:
    """One unit vector a text from those of its pieces, each weighing what its length is.

    Args:
        rows: A row a piece, in order.
        cut: The pieces of each text.
    """
    if len(rows) == len(cut):
        return rows
    vectors = np.empty((len(cut), rows.shape[1]), dtype=np.float32)
    at = 0
    for number, parts in enumerate(cut):
        mine = rows[at : at + len(parts)]
        weights = np.array([[len(part)] for part in parts], dtype=np.float32)
        vectors[number] = mine[0] if len(parts) == 1 else unit((mine * weights).sum(0)[None])[0]
        at += len(parts)
    return vectors


def unit(vectors: Vectors) -> Vectors:
    """Rows of length 1."""
    # In float64: the square of a large float32 overflows.
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    scaled: Vectors = (vectors / norms).astype(np.float32)
    return scaled
