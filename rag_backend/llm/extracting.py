"""The sentences of the passages that answer a question best. No model, no randomness."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rag_backend.llm.provider import Evidence, Grounding
from rag_backend.llm.statements import statements
from rag_backend.text import bigrams, fold, references, term, words

MOST_SENTENCES = 3
MOST_CHARACTERS = 600

_WEIGHT_OF_PAIRS = 0.25
"""Share of neighbouring question words in a sentence's score: Vietnamese words span syllables."""
_WEIGHT_OF_PLACE = 0.2
"""Share of the passage: a sentence under "Annual leave" need not repeat those words."""
_FROM_HEADING = 0.5
"""What a sentence gets of the score of the line before it that asks or announces it."""
_NUMBER_WANTED = 0.1
_LEAST_PASSAGE = 0.7
"""Weight of the last passage's score against the first's 1.0."""
_WORTH_ADDING = 0.66
"""A further sentence needs this share of the best one's score."""
_TOO_ALIKE = 0.6
"""Share of a sentence's terms that, if shown already, makes it a repetition."""

_NOWHERE = (0, 0)
_NUMBER = re.compile(r"\d")
_ASKS_NUMBER = re.compile(
    r"\b(?:how (?:many|much|long|often|old|far|late|early|fast|high)|when|what time|which date"
    r"|bao (?:nhieu|lau|gio|xa)|may|khi nao|ngay nao|muc|toi da|toi thieu)\b"
)


@dataclass(frozen=True, slots=True)
class Pick:
    """A sentence, verbatim (a table row as "header: cell" pairs), and its passage's number.

    `coverage` is the share in 0..1 of the question's weight that occurs in it, in what announces
    it, or in its passage's title.
    """

    number: int
    text: str
    coverage: float


@dataclass
class _Candidate:
    evidence: Evidence
    place: tuple[int, int]
    text: str
    cells: str | None = None
    terms: frozenset[str] = field(init=False)
    words: frozenset[str] = field(init=False)
    score: float = 0.0
    announcement: str = ""
    told_apart_by: float = 0.0
    """For a table row, what its cells alone cover: the header is the same for all rows."""

    def __post_init__(self) -> None:
        listed = words(self.text)
        self.words = frozenset(listed)
        self.terms = frozenset(map(term, listed)) | frozenset(bigrams(map(fold, listed)))

    @property
    def in_context(self) -> _Candidate:
        """The same with its passage's title and the line that announces it."""
        said = f"{self.evidence.title}\n{self.announcement}\n{self.text}"
        return _Candidate(self.evidence, _NOWHERE, said)

    @property
    def introduces(self) -> bool:
        """Whether it asks, or announces what the following line says."""
        return self.text.endswith(("?", ":")) or self.is_heading

    @property
    def is_heading(self) -> bool:
        """Whether it looks like a title: short, no end, no number, nothing said of anything."""
        return (
            len(self.words) <= 9
            and not self.text.endswith((".", "!", ";", ":", "…", ")"))
            and ": " not in self.text
            and not _NUMBER.search(self.text)
        )


_CLAUSE = re.compile(r"\b(?:khoan|clause|paragraph) (\d+)\b")


def pick(grounding: Grounding) -> list[Pick]:
    """At most three sentences and 600 characters, in the order in which they are to be read.

    Empty when no sentence shares a word with the question.
    """
    candidates = list(_candidates(grounding.passages))
    query = _Query.of(grounding, candidates)
    _score(candidates, query, grounding.passages)
    chosen = _without_repetition(candidates)
    return [
        Pick(c.evidence.number, c.text, query.coverage(c.in_context)) for c in _readable(chosen)
    ]


def first_sentence(passages: Sequence[Evidence]) -> Pick | None:
    """How the best passage begins: what is shown when no word of the question occurs."""
    for candidate in _candidates(passages):
        if not candidate.introduces:
            return Pick(candidate.evidence.number, _shortened(candidate.text, MOST_CHARACTERS), 0.0)
    return None


def named_part(grounding: Grounding) -> str:
    """The part that a question names by number, verbatim; "" where the best passage is not it.

    "What does Article 5 say?" shares no word with what Article 5 says. Of "khoản 2", "clause 2",
    only that numbered line.
    """
    best, wanted = grounding.passages[0], references(grounding.question)
    if not wanted or not wanted <= references(best.title):
        return ""
    clause = _CLAUSE.search(fold(grounding.question))
    lines = best.text.splitlines()
    named = [line for line in lines if clause and re.match(rf"\W*{clause[1]}\s*[.)]", line)]
    return f"{_shortened(chr(10).join(named or lines), MOST_CHARACTERS)} [{best.number}]"


def _candidates(passages: Sequence[Evidence]) -> Iterator[_Candidate]:
    for rank, evidence in enumerate(passages):
        for at, statement in enumerate(statements(evidence.text)):
            yield _Candidate(evidence, (rank, at), *statement)


@dataclass(frozen=True)
class _Query:
    """What is looked for: weights of terms, and how each was typed."""

    weights: Mapping[str, float]
    typed: Mapping[str, str]
    pairs: frozenset[str]
    wants_number: bool

    @classmethod
    def of(cls, grounding: Grounding, candidates: Sequence[_Candidate]) -> _Query:
        listed = words(grounding.question)
        weights = {t: max(w, 0.01) for t, w in grounding.terms.items()}
        if not weights:
            weights = _rarity({term(word) for word in listed}, candidates)
        neighbours = [
            p for p in bigrams(map(fold, listed)) if all(term(w) in weights for w in p.split("_"))
        ]
        return cls(
            weights=weights,
            typed={term(word): word for word in listed},
            pairs=frozenset(neighbours),
            wants_number=_ASKS_NUMBER.search(" ".join(map(fold, listed))) is not None,
        )

    def coverage(self, candidate: _Candidate) -> float:
        """Share in 0..1 of the question's weight that occurs in the sentence."""
        found = sum(w for t, w in self.weights.items() if self._meets(t, candidate))
        return found / sum(self.weights.values())

    def _meets(self, wanted: str, candidate: _Candidate) -> bool:
        if wanted not in candidate.terms:
            return False
        typed = self.typed.get(wanted, wanted)
        bare = fold(typed)
        # "bán" is not "bạn"; but a word typed or printed without diacritics may be either.
        return typed == bare or typed in candidate.words or bare in candidate.words

    def neighbours(self, candidate: _Candidate) -> float:
        """Share in 0..1 of the question's neighbouring words that are neighbours here too."""
        if not self.pairs:
            return self.coverage(candidate)
        return len(self.pairs & candidate.terms) / len(self.pairs)


def _rarity(wanted: set[str], candidates: Sequence[_Candidate]) -> dict[str, float]:
    """BM25's idf over the sentences at hand: function words come out light.

    A word that occurs in none of them is left out: it may be one that says nothing.
    """
    counts = Counter(t for c in candidates for t in c.terms & wanted)
    total = len(candidates)
    return {t: math.log(1 + (total - n + 0.5) / (n + 0.5)) for t, n in counts.items()}


def _score(candidates: list[_Candidate], query: _Query, passages: Sequence[Evidence]) -> None:
    if not query.weights:
        return
    places = {
        e.number: query.coverage(_Candidate(e, _NOWHERE, f"{e.title} {e.text}")) for e in passages
    }
    previous: tuple[_Candidate, float] | None = None
    for candidate in candidates:
        own = (1 - _WEIGHT_OF_PAIRS) * query.coverage(candidate)
        own += _WEIGHT_OF_PAIRS * query.neighbours(candidate)
        inherited = 0.0
        if previous and previous[0].introduces and _follows(previous[0], candidate):
            inherited = _FROM_HEADING * previous[1]
            candidate.announcement = previous[0].text
        total = own + inherited
        if total > 0:
            total += _WEIGHT_OF_PLACE * places[candidate.evidence.number]
            total += _NUMBER_WANTED * (query.wants_number and bool(_NUMBER.search(candidate.text)))
        candidate.score = total * _standing(candidate.evidence, passages)
        if candidate.cells is not None:
            candidate.told_apart_by = query.coverage(
                _Candidate(candidate.evidence, _NOWHERE, candidate.cells)
            )
        if candidate.text.endswith("?") or candidate.is_heading:
            candidate.score *= 0.3  # it repeats the question and does not answer it
        # The items of a list all stand under the line that announces them.
        if not (previous and inherited and previous[0].text.endswith(":")):
            previous = (candidate, own)


def _follows(one: _Candidate, other: _Candidate) -> bool:
    return one.evidence.number == other.evidence.number and 0 < other.place[1] - one.place[1] <= 6


def _standing(evidence: Evidence, passages: Sequence[Evidence]) -> float:
    """The passage's score as a factor between `_LEAST_PASSAGE` and 1."""
    scores = [e.score for e in passages]
    low, high = min(scores), max(scores)
    share = 1.0 if high <= low else (evidence.score - low) / (high - low)
    return _LEAST_PASSAGE + (1 - _LEAST_PASSAGE) * share


def _without_repetition(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    ranked = sorted((c for c in candidates if c.score > 0), key=lambda c: (-c.score, c.place))
    chosen: list[_Candidate] = []
    left = MOST_CHARACTERS
    for candidate in ranked:
        if chosen and candidate.score < _WORTH_ADDING * chosen[0].score:
            break
        if any(_is_lesser_row(candidate, c) for c in chosen):
            continue
        shown = frozenset[str]().union(*(c.terms for c in chosen))
        if len(candidate.terms & shown) > _TOO_ALIKE * len(candidate.terms):
            continue
        if not chosen:
            candidate.text = _shortened(candidate.text, MOST_CHARACTERS)
        if len(candidate.text) > left:
            continue
        chosen.append(candidate)
        left -= len(candidate.text)
        if len(chosen) == MOST_SENTENCES:
            break
    return chosen


def _is_lesser_row(one: _Candidate, chosen: _Candidate) -> bool:
    """Whether a row of the same passage was chosen whose cells say more of the question."""
    rows = one.cells is not None and chosen.cells is not None
    together = one.evidence.number == chosen.evidence.number
    return rows and together and one.told_apart_by < _WORTH_ADDING * chosen.told_apart_by


def _readable(chosen: Sequence[_Candidate]) -> list[_Candidate]:
    """Best passage first; within a passage in the order of the text."""
    order = list(dict.fromkeys(c.evidence.number for c in chosen))
    return sorted(chosen, key=lambda c: (order.index(c.evidence.number), c.place))


def _shortened(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    return text[: characters - 1].rsplit(" ", 1)[0] + "…"
