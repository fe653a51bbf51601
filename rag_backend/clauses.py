"""Clauses and points inside an article: "khoản 2", "điểm b khoản 3", "clause 2(b)"."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rag_backend.text import fold, has_vietnamese_letters, nfc, references

# Numbers of clauses are small, and what follows them is no amount of money or time.
_NUMBER = (
    r"(\d{1,2}(?:\.\d{1,2}){0,2})(?![.,]?\d)"
    r"(?!\s*(?:%|(?:triệu|nghìn|ngàn|tỷ|đồng|đô|usd|vnd|ngày|tháng|năm)\b))"
)
# "Tài khoản 2" is an account.
_CLAUSE = rf"\b(?:(?<!tài )khoản|clause|sub-?section|paragraph) {_NUMBER}"
_POINT = r"\b(?:điểm|point) \(?([a-zđ])\b|\b(?:clause|paragraph) [\d.]+ ?\(?([a-z])\)"

# How a clause's or a point's line begins, in folded text: "2.", "2)", "Khoản 2", "3.2 Repairs".
_NUMBERED = re.compile(
    r"\W*(?:(?:khoan|clause|paragraph)\s+(\d{1,2}(?:\.\d{1,2})*)\b"
    r"|(\d{1,2}(?:\.\d{1,2})*)\s*[.)](?!\d)"
    r"|(\d{1,2}(?:\.\d{1,2})+)\s+(?!(?:trieu|nghin|ngan|ty|dong|gio|ngay|km|kg|m|million)\b)[a-z])"
)
_LETTERED = re.compile(r"\W*([a-zđ])\s*[.)]\s")


@dataclass(frozen=True, slots=True)
class Clause:
    """What a question names inside an article: a clause's number, a point's letter, or both."""

    number: str = ""
    point: str = ""
    articles: frozenset[str] = field(default=frozenset(), compare=False)
    """Numbers of the parts that are named beside it: clause 2 of Article 3 may be "3.2"."""


def clause_in(question: str) -> Clause | None:
    """The clause that a question names, if it names one of an article, and no other."""
    wanted = references(question)
    if not wanted:  # "điểm D" is a mark then, and "at what point I may" no point
        return None
    lowered = nfc(question).lower()
    clause, point = _PATTERNS if has_vietnamese_letters(question) else _BARE_PATTERNS
    numbers = {found[1] for found in clause.finditer(lowered)}
    letters = {next(filter(None, found.groups())) for found in point.finditer(lowered)}
    if not (numbers or letters) or len(numbers) > 1 or len(letters) > 1:
        return None
    articles = frozenset(name.rpartition(" ")[2] for name in wanted)
    return Clause("".join(numbers), "".join(letters), articles)


def has_clauses(text: str) -> bool:
    """Whether any line of a text is numbered as a clause is."""
    return any(_number_of(line) for line in text.splitlines())


def clause_of(text: str, wanted: Clause) -> str:
    """Those lines of an article's text, verbatim; "" where it has none such."""
    lines = text.splitlines()
    if wanted.number:
        lines = _clause(lines, wanted)
    if wanted.point:
        lines = _point(lines, wanted.point) or (lines if wanted.number else [])
    return "\n".join(lines).strip()


def _clause(lines: list[str], wanted: Clause) -> list[str]:
    """From its number to the next one; of Article 3 clause 2 may be written "3.2"."""
    numbers = [_number_of(line) for line in lines]
    full = {f"{article}.{wanted.number}" for article in wanted.articles}
    starts = [at for at, number in enumerate(numbers) if number == wanted.number]
    starts += [at for at, number in enumerate(numbers) if number in full]
    if not starts:
        return []
    start = starts[0]
    inside = numbers[start] + "."
    ends = (
        at
        for at, number in enumerate(numbers)
        if at > start and number and not number.startswith(inside)
    )
    return lines[start : next(ends, len(lines))]


def _point(lines: list[str], wanted: str) -> list[str]:
    marks = [_LETTERED.match(nfc(line).lower()) for line in lines]
    start = next((at for at, mark in enumerate(marks) if mark and mark[1] == wanted), None)
    if start is None:
        return []
    ends = (
        at
        for at, line in enumerate(lines)
        if at > start and (marks[at] is not None or _number_of(line))
    )
    return lines[start : next(ends, len(lines))]


def _number_of(line: str) -> str:
    found = _NUMBERED.match(fold(line[:40]))
    return next(filter(None, found.groups())) if found else ""


_PATTERNS = (re.compile(_CLAUSE), re.compile(_POINT))
_BARE_PATTERNS = (re.compile(fold(_CLAUSE)), re.compile(fold(_POINT)))
