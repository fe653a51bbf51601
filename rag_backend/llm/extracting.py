"""The sentences of the passages that answer a question best. No model, no randomness."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rag_backend.llm.provider import Evidence, Grounding
from rag_backend.llm.statements import statements
from rag_backend.text import bigrams, fold, present_terms, term, words
from rag_backend.utterances import parts

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

_ANSWERS_PART = 0.5
"""Share of a part's weight in a sentence that is added as the answer to that part alone."""
_SUBJECT = 0.5
"""What a word of the whole question weighs for a part that needs it ("and who approves it?")."""

_NOWHERE = (0, 0)
_NUMBER = re.compile(r"\d")
_ASKS_NUMBER = re.compile(
    r"\b(?:how (?:many|much|long|often|old|far|late|early|fast|high)|when|what time|which date"
    r"|bao (?:nhieu|lau|gio|xa)|may|khi nao|ngay nao|muc|toi da|toi thieu)\b"
)


@dataclass(frozen=True, slots=True)
class Pick:
    """A sentence, verbatim, and its passage's number. A table's row is "header: cell" pairs, one
    of questions and answers its answer.

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
    row: str = ""
    """All cells, for a row of questions and answers, of which the answer alone is shown."""
    terms: frozenset[str] = field(init=False)
    words: frozenset[str] = field(init=False)
    score: float = 0.0
    announcement: str = ""
    told_apart_by: float = 0.0
    """For a table row, what its cells alone cover: the header is the same for all rows."""

    def __post_init__(self) -> None:
        listed = words(f"{self.row} {self.text}")
        self.words = frozenset(listed)
        self.terms = frozenset(map(term, listed)) | frozenset(bigrams(map(fold, listed)))

    @property
    def in_context(self) -> _Candidate:
        """The same with its passage's title and the line that announces it."""
        said = f"{self.evidence.title}\n{self.announcement}\n{self.row}\n{self.text}"
        return _Candidate(self.evidence, _NOWHERE, said)

    @property
    def introduces(self) -> bool:
        """Whether it asks, or announces what the following line says."""
        if self.row:
            return False
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


def pick(grounding: Grounding) -> list[Pick]:
    """At most three sentences and 600 characters, in the order in which they are to be read.

    Empty when no sentence shares a word with the question.
    """
    ranked, query = _ranked(grounding)
    found = {c.place: (c, query.coverage(c.in_context)) for c in _without_repetition(ranked)}
    asked = parts(grounding.question)
    if len(asked) > 1:
        bests = [_best_of_part(grounding, part) for part in asked]
        found = _within_limits({c.place: (c, share) for c, share in filter(None, bests)} | found)
    chosen = _readable([candidate for candidate, _ in found.values()])
    return [Pick(c.evidence.number, _shown(c, chosen), found[c.place][1]) for c in chosen]


def _ranked(grounding: Grounding) -> tuple[list[_Candidate], _Query]:
    candidates = list(_candidates(grounding.passages))
    query = _Query.of(grounding, candidates)
    _score(candidates, query, grounding.passages)
    return candidates, query


def _best_of_part(grounding: Grounding, part: str) -> tuple[_Candidate, float] | None:
    """The sentence that answers one of several questions, and how much of it; None without one."""
    own = present_terms(part) & grounding.terms.keys()
    subject = frozenset[str]()
    if len(own) < 2:  # of the rest, what the passages say anything of
        subject = frozenset().union(*(present_terms(e.text) for e in grounding.passages))
    terms = {
        t: weight if t in own else weight * _SUBJECT
        for t, weight in grounding.terms.items()
        if t in own or t in subject
    }
    candidates, query = _ranked(replace(grounding, question=part, terms=terms))
    best = next(iter(_without_repetition(candidates)), None)
    if best is None:
        return None
    share = query.coverage(best.in_context)
    return (best, share) if share >= _ANSWERS_PART else None


def _within_limits(
    found: Mapping[tuple[int, int], tuple[_Candidate, float]],
) -> dict[tuple[int, int], tuple[_Candidate, float]]:
    """The first ones, as many as may be shown."""
    kept: dict[tuple[int, int], tuple[_Candidate, float]] = {}
    left = MOST_CHARACTERS
    for place, (candidate, share) in found.items():
        if len(kept) < MOST_SENTENCES and len(candidate.text) <= left:
            kept[place] = candidate, share
            left -= len(candidate.text)
    return kept


def _shown(candidate: _Candidate, chosen: Sequence[_Candidate]) -> str:
    """A row's answer; with its question where another sentence stands beside it."""
    if candidate.row and len(chosen) > 1:
        return f"{candidate.evidence.question} {candidate.text}"
    return candidate.text


def first_sentence(passages: Sequence[Evidence]) -> Pick | None:
    """How the best passage begins: what is shown when no word of the question occurs."""
    for candidate in _candidates(passages):
        if not candidate.introduces:
            return Pick(candidate.evidence.number, shortened(candidate.text, MOST_CHARACTERS), 0.0)
    return None


def _candidates(passages: Sequence[Evidence]) -> Iterator[_Candidate]:
    for rank, evidence in enumerate(passages):
        if evidence.answer:
            answer = " ".join(evidence.answer.split())
            yield _Candidate(evidence, (rank, 0), answer, row=evidence.text)
            continue
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
        asks = candidate.text.endswith("?") or candidate.is_heading
        if asks and not candidate.row:
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
            candidate.text = shortened(candidate.text, MOST_CHARACTERS)
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


def shortened(text: str, characters: int) -> str:
    """At most so many characters, cut between words."""
    if len(text) <= characters:
        return text
    return text[: characters - 1].rsplit(" ", 1)[0] + "…"
