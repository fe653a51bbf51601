"""What stands in the article, chapter or clause that a question names by its number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rag_backend.clauses import clause_in, clause_of
from rag_backend.llm.extracting import MOST_CHARACTERS, pick, shortened
from rag_backend.llm.provider import Evidence, Grounding
from rag_backend.text import bears, borne, content_terms, references

_SAYING_NOTHING = frozenset(
    "quy dinh noi dung ghi neu viet say state provid contain content about".split()
)
"""Stems of "what does it say?", "quy định gì?": such a question asks for the whole part."""
_CLAUSES = frozenset("khoan diem claus clause point paragraph subsect subsection".split())


def named_clause(grounding: Grounding) -> str:
    """The clause that a question names, verbatim; "" where it names none, or no passage has it.

    Of a long one, the sentences that answer.
    """
    clause, wanted = clause_in(grounding.question), references(grounding.question)
    if clause is None:
        return ""
    # An article that only cites the named one has a clause of that number as well.
    its = [evidence for evidence in grounding.passages if bears(_headings(evidence), wanted)]
    cut = ((evidence, clause_of(evidence.text, clause)) for evidence in its)
    evidence, text = next((found for found in cut if found[1]), (None, ""))
    if evidence is None:
        return ""
    if len(text) > MOST_CHARACTERS:
        picks = pick(replace(grounding, passages=(replace(evidence, text=text),)))
        if picks:
            return "\n".join(f"{p.text} [{p.number}]" for p in picks)
    return f"{shortened(text, MOST_CHARACTERS)} [{evidence.number}]"


def asks_for_the_whole(question: str) -> bool:
    """Whether a question names a part, or a clause of one, and asks nothing but what it says."""
    wanted, clause = references(question), clause_in(question)
    naming = {term for name in wanted for term in content_terms(name)}
    if clause is not None:
        naming |= {*_CLAUSES, *content_terms(f"{clause.number} {clause.point}"), clause.point}
    return bool(wanted) and set(content_terms(question)) <= naming | _SAYING_NOTHING


def named_part(grounding: Grounding) -> str:
    """The parts that a question names, verbatim, by number; "" where the best passage is none.

    "What does Article 5 say?" shares no word with what Article 5 says. Of a chapter, the headings
    of its articles.
    """
    best, wanted = grounding.passages[0], references(grounding.question)
    if not bears(_headings(best), wanted):
        return ""
    # Of "Article 5 of Chapter I and Article 6 of Chapter II", one document tells which belongs to
    # which; another's Article 6 may be in its Chapter I.
    one_document = len({kind for kind, _ in borne(_headings(best), wanted)}) > 1
    parts: dict[tuple[tuple[str, str], ...], list[Evidence]] = {}
    for evidence in grounding.passages:
        if one_document and _document(evidence) != _document(best):
            continue
        if number := borne(_headings(evidence), wanted):
            parts.setdefault(tuple(number), []).append(evidence)
    return "\n".join(_shown(parts[number], wanted) for number in sorted(parts))


def _shown(passages: Sequence[Evidence], wanted: frozenset[str]) -> str:
    """One part: the headings of what stands in it, or the best passage itself."""
    below = _below(passages, wanted)
    if len(below) > 1:
        return "\n".join(f"{heading} [{number}]" for heading, number in below)
    return f"{shortened(passages[0].text, MOST_CHARACTERS)} [{passages[0].number}]"


def _document(evidence: Evidence) -> str:
    return evidence.title.partition(" › ")[0]


def _headings(evidence: Evidence) -> list[str]:
    return evidence.title.split(" › ")[1:]


def _below(passages: Sequence[Evidence], wanted: frozenset[str]) -> list[tuple[str, int]]:
    """(last heading, its passage's number) of what stands in a named part, in order."""
    found: dict[str, int] = {}
    for evidence in passages:
        headings = _headings(evidence)
        if bears(headings[:-1], wanted):
            found.setdefault(headings[-1], evidence.number)
    return sorted(found.items(), key=lambda pair: [int(n) for n in re.findall(r"\d+", pair[0])[:2]])
