"""How far an encoder can be trusted for a text, learnt from the text itself (no labels).

Real questions rarely use a passage's own words, so a passage's own words would say that BM25 is
always right. Instead, one sentence is cut out of a chunk and asked (the inverse cloze task of Lee,
Chang and Toutanova, 2019): the chunk to be found has lost that sentence, and only says the
same kind of thing in other words. On titles asked of their pages (LibreOffice's help in two
languages, Debian's package descriptions) this comes nearest to the weight that serves the real
queries best; to leave some of the sentence's words behind falls short of it.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rag_backend.knowledge.fusion import DENSE_WEIGHT, Ranking, leaning, normalised
from rag_backend.knowledge.models import StoredChunk
from rag_backend.text import fold, kind_of, words

GRID = tuple(n / 20 for n in range(21))
"""The dense weights that are compared."""
ITEMS_A_KIND = 250
"""Known items of one kind of text."""
FEWEST_ITEMS = 24
"""With fewer, what they say is chance."""

_SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+|\n+|(?<=[。！？])")
_QUERY_WORDS = 16
_WORDS_LEFT = 8
_EQUALS = 0.6
"""Prior where the encoder finds as many trials as BM25: a sentence has more of its chunk's words
than a question, so an encoder that keeps up with BM25 there is ahead of it with questions."""
_MOST = 0.65
"""The prior's most, by caution: the development sets alone would have it at .85, but trials can
favour an encoder where BM25 answers the questions better."""
_PRIOR_POWER = 4
_PRIOR_WIDTH = 0.1
_EQUAL = 1e-9


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A sentence to be asked, and what is left of the chunk that it was cut from."""

    kind: str
    query: str
    rest: str

    @property
    def queries(self) -> dict[str, str]:
        """{kind: query}: Vietnamese is typed without diacritics too, and read worse so."""
        folded = {"vi-unaccented": fold(self.query)} if self.kind == "vi" else {}
        return {self.kind: self.query} | folded


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
    """At most as many words in a row as a long question has."""
    listed = sentence.split()
    at = chance.randrange(max(1, len(listed) - _QUERY_WORDS + 1))
    return " ".join(listed[at : at + _QUERY_WORDS])


def dense_weight(trials: Sequence[Trial]) -> float:
    """The dense weight that serves these trials best, drawn towards the prior by their noise.

    Every weight of the grid has a vote: the likelihood that it is as good as the best one, by the
    paired difference in mean reciprocal rank and its standard error, times the prior's density.
    The prior's centre goes with the fourth power of the ratio of the encoder alone to BM25 alone:
    on 38 development sets that ratio says more about real questions than the best weight of the
    trials, which is much the same from one English set to the next.

    An encoder that alone is worse than BM25 gets the square of its ratio to it of all that:
    too little costs what the encoder could have added, too much costs what BM25 had found, and a
    sentence shares more spellings with its neighbours than a question does, which is what an
    encoder still sees of a language that it does not know.
    """
    if len(trials) < FEWEST_ITEMS:
        return DENSE_WEIGHT
    grid = np.array(GRID)
    gains = np.array([_gains(trial) for trial in trials])
    means = gains.mean(axis=0)
    lost = gains[:, [int(means.argmax())]] - gains
    # A trial more, lost by one rank: where all agree there is no certainty either.
    error = np.sqrt(lost.var(axis=0) / len(trials)) + 1 / (2 * len(trials))
    votes = np.exp(-0.5 * (lost.mean(axis=0) / error) ** 2)
    lexical, dense = float(means[0]), float(means[-1])
    ratio = min(dense / max(lexical, _EQUAL), 2.0) if dense > 0 else float(lexical <= 0)
    prior = min(_MOST, _EQUALS * ratio**_PRIOR_POWER)
    # Of few trials the ratio is noise too.
    prior += (DENSE_WEIGHT - prior) * FEWEST_ITEMS / (FEWEST_ITEMS + len(trials))
    votes *= np.exp(-0.5 * ((grid - prior) / _PRIOR_WIDTH) ** 2)
    return round(float(votes @ grid / votes.sum()) * min(1.0, ratio) ** 2, 3)


def _gains(trial: Trial) -> npt.NDArray[np.float64]:
    """Reciprocal rank of the target at each weight of the grid, shape (len(GRID),).

    0 where the target is in neither ranking; ties count against it.
    """
    dense, lexical = normalised(trial.dense), normalised(trial.lexical)
    items = list(dense.keys() | lexical.keys())
    if trial.target not in items:
        return np.zeros(len(GRID))
    shares = np.array([(dense.get(item, 0.0), lexical.get(item, 0.0)) for item in items])
    grid = np.array(GRID)[:, None]
    odds = grid * leaning(dense, lexical)
    scores = odds * shares[:, 0] + (1 - grid) * shares[:, 1]
    target = scores[:, [items.index(trial.target)]]
    ranks = (scores >= target - _EQUAL).sum(axis=1)
    return np.where(target[:, 0] > _EQUAL, 1 / ranks, 0.0)
