"""How far an encoder can be trusted for a text, learnt from the text itself (no labels).

Real questions rarely use a passage's own words, so a passage's own words would say that BM25 is
always right. Instead, one sentence is cut out of a chunk and asked (the inverse cloze task of Lee,
Chang and Toutanova, 2019): the chunk to be found has lost that sentence, and only says the
same kind of thing in other words.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rag_backend.knowledge.fusion import DENSE_WEIGHT, Ranking, fuse
from rag_backend.knowledge.models import StoredChunk
from rag_backend.text import kind_of, words

GRID = tuple(n / 20 for n in range(21))
"""The dense weights that are compared."""
ITEMS_A_KIND = 250
"""Known items of one kind of text."""
FEWEST_ITEMS = 24
"""With fewer, what they say is chance."""

_SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+|\n+|(?<=[。！？])")
_QUERY_WORDS = 8
_WORDS_LEFT = 8


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A sentence to be asked, and what is left of the chunk that it was cut from."""

    kind: str
    query: str
    rest: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What the two rankings said about one known item."""

    target: str
    dense: Ranking
    lexical: Ranking


def known_items(chunks: Iterable[StoredChunk]) -> list[KnownItem]:
    """Known items, at most ITEMS_A_KIND of a kind; the same chunks give the same items."""
    by_kind: dict[str, list[KnownItem]] = {}
    seen: set[str] = set()
    for chunk in chunks:
        item = known_item(chunk)
        if item is None or item.rest in seen:
            continue
        seen.add(item.rest)
        listed = by_kind.setdefault(item.kind, [])
        if len(listed) < ITEMS_A_KIND:
            listed.append(item)
    return [item for kind in sorted(by_kind) for item in by_kind[kind]]


def known_item(chunk: StoredChunk) -> KnownItem | None:
    """One of the chunk's sentences, shortened, and the rest; None when it has too little text."""
    seed = hashlib.blake2b(chunk.indexed_text.encode(), digest_size=8).digest()
    chance = random.Random(int.from_bytes(seed))
    if chunk.question and chunk.answer:
        return KnownItem(kind_of(chunk.question), chunk.question, chunk.answer)
    parts = [part.strip() for part in _SENTENCE_END.split(chunk.text) if part.strip()]
    asked = [n for n, part in enumerate(parts) if len(words(part)) >= 5 or len(part) >= 25]
    if len(parts) < 2 or not asked:
        return None
    at = chance.choice(asked)
    rest = " ".join(parts[:at] + parts[at + 1 :])
    if len(words(rest)) < _WORDS_LEFT and len(rest) < 5 * _WORDS_LEFT:
        return None
    return KnownItem(kind_of(parts[at]), _shortened(parts[at], chance), rest)


def _shortened(sentence: str, chance: random.Random) -> str:
    """As many words in a row as a question has."""
    listed = sentence.split()
    at = chance.randrange(max(1, len(listed) - _QUERY_WORDS + 1))
    return " ".join(listed[at : at + _QUERY_WORDS])


def dense_weight(trials: Sequence[Trial]) -> float:
    """The dense weight that serves these trials best, drawn towards the prior by their noise.

    Each weight of the grid gets its reciprocal rank on every trial. What counts is the difference
    to the best weight in units of its own standard error, so weights that the trials
    cannot tell apart share the vote, the prior's neighbours with the greater one.
    """
    if len(trials) < FEWEST_ITEMS:
        return DENSE_WEIGHT
    gains = np.array([[_gain(trial, weight) for weight in GRID] for trial in trials])
    lost = gains[:, [int(gains.mean(axis=0).argmax())]] - gains
    error = lost.std(axis=0) / math.sqrt(len(trials)) + 1e-6
    votes = np.exp(-0.5 * (lost.mean(axis=0) / error) ** 2)
    votes *= np.exp(-0.5 * ((np.array(GRID) - DENSE_WEIGHT) / _PRIOR_WIDTH) ** 2)
    return round(float(votes @ np.array(GRID) / votes.sum()), 3)


_PRIOR_WIDTH = 0.3


def _gain(trial: Trial, weight: float) -> float:
    """Reciprocal rank of the target in the fused ranking; 0 when it is not there."""
    for rank, (item, _) in enumerate(fuse(trial.dense, trial.lexical, weight), 1):
        if item == trial.target:
            return 1 / rank
    return 0.0
