"""How hard a question looks, in 0..1, and what makes it so. No model, no randomness."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from rag_backend.llm.provider import ChatRequest, Grounding
from rag_backend.llm.streams import estimate_tokens
from rag_backend.text import bigrams, fold, term, words

UNKNOWN_CONTEXT = 8192
"""Tokens that a local model is taken to read where nobody says how many."""

_MIDDLING = 160
"""Characters of a question that is half as long as can be."""
_SHORT = 80
_LOOKED_AT = 4000
"""Characters of a message that are looked at: whoever pastes a book has asked before it, or it is
long anyway, and the event loop must not read it to its end."""
_ENOUGH = 0.9
"""Share of what all passages together say of the question that "needed" ones must say."""

# What a question asks for, in its folded words (no diacritics, no punctuation), both languages at
# once: "tại sao", "tai sao" and "why". Phrases that are words of the other language are left out.
_CUES: tuple[tuple[str, float, re.Pattern[str]], ...] = (
    (
        "compare",
        0.5,
        re.compile(
            r"\b(?:compar\w+|contrast\w*|differ(?:s|ences?|ent|ently)?|distinguish\w*|versus|vs"
            r"|(?:dis)?advantages?|pros and cons|trade ?offs?|similarit\w+|better|worse|rather than"
            r"|so sanh|doi chieu|phan biet|khac (?:nhau|gi|biet|the nao|ra sao)|giong (?:nhau|va)"
            r"|uu (?:va )?nhuoc diem|uu diem|nhuoc diem|tot hon|loi hon|co loi hon|nen chon)\b"
        ),
    ),
    (
        "analyse",
        0.5,
        re.compile(
            r"\b(?:analy[sz]\w+|assess\w*|evaluat\w+|discuss|critique|synthesi[sz]\w+|summari[sz]\w+"
            r"|summary|outline|overview|recommend\w*|propos\w+|suggest\w*|design|draft"
            r"|write (?:a|an|me|up|the)|implications?|impacts?|consequences?|affects?|prove|derive"
            r"|contradict\w*|(?:in)?consisten\w+|conclusions?|conclude|compl(?:y|ies|iant|iance)"
            r"|interpret\w*|weigh|strateg\w+|should (?:we|i|they|our|the)"
            r"|phan tich|danh gia|binh luan|nhan xet|tong hop|tom tat|khai quat|de xuat|kien nghi"
            r"|soan(?: thao)?|hay viet|viet (?:mot|bai|thu|don)|thiet ke|chung minh|anh huong"
            r"|mau thuan|nhat quan|ket luan|rut ra|tuan thu|dung luat|hop phap"
            r"|tac dong|hau qua|he qua|rui ro|chien luoc|co nen|nen lam|tu van|suy ra)\b"
        ),
    ),
    (
        "why",
        0.4,
        re.compile(
            r"\b(?:why|reasons?|reasoning|explain\w*|justif\w+|rationale|causes?|how come"
            r"|what makes"
            r"|tai sao|vi sao|ly do|li do|nguyen nhan|giai thich|ly giai|lam ro|y nghia gi)\b"
        ),
    ),
    (
        "how",
        0.3,
        re.compile(
            r"\b(?:how (?:do|does|did|can|could|should|would|will|to|is|are|was|were|might)"
            r"|steps?|procedures?|process|walk me through|work(?:s|ed)? out"
            r"|nhu the nao(?! la)|(?<!\S)the nao(?! la)\b|ra sao|lam (?:cach nao|sao)|cach (?:thuc"
            r"|tinh|xu ly|lam|nao|xac dinh)|quy trinh|trinh tu|cac buoc)\b"
        ),
    ),
    (
        "conditions",
        0.25,
        re.compile(
            r"\b(?:if|unless|suppos\w+|assum\w+|what happens|in case|scenario|although|even though"
            r"|despite|whereas|except(?:ions?)?|but|still"
            r"|neu|gia su|mac du|tuy nhien|trong khi|nhung (?:khong|chua|lai|van|da|sau)|ngoai le"
            r"|ma khong|van (?:duoc|phai|con)|dong thoi)\b"
        ),
    ),
    (
        "enumerate",
        0.25,
        re.compile(
            r"\b(?:list|enumerate|all (?:the|of|our|types|kinds)|each|every|everything|across"
            r"|throughout|overall|both|between"
            r"|liet ke|tat ca|toan bo|moi (?:truong hop|loai|quy dinh)|tung (?:truong hop|loai|buoc"
            r"|nhom)|nhung (?:truong hop|loai|dieu kien|quyen|buoc|gi)|cac (?:truong hop|dieu kien"
            r"|loai|quy dinh|nghia vu)|giua)\b"
        ),
    ),
    (
        "calculate",
        0.3,
        re.compile(
            r"\b(?:calculat\w+|comput\w+|in total|total|sum|average|percent(?:age)?|ratio|estimate"
            r"|add up|tinh (?:toan|tong|ra|so|tien|luong|thue|muc|xem|giup)|tong (?:cong|so|tien)"
            r"|trung binh|phan tram|ty le|ti le|uoc tinh)\b"
        ),
    ),
)
_ANOTHER = re.compile(
    r"\b(?:and (?:how|why|what|who|when|where|which|whether|does|do|is|are|can|should|must)"
    r"|va (?:tai sao|vi sao|ai|khi nao|bao (?:nhieu|lau|gio)|nhu the nao|phai|co|can|o dau|lam"
    r"|thoi han|muc)|cung nhu|as well as)\b"
)
_ASKED = re.compile(r"[?？؟]+")
_LISTED = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•]|[a-z]\))\s+", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_CODE = re.compile(
    r"```|\bTraceback\b|</?\w+>|=>|->|::|[{};]\s*$|\b\w+\([^)\n]*\)|\b(?:SELECT|UPDATE|INSERT)\b"
    r"|^\s*(?:def|class|import|function|const|#include)\b|[=!<>]=|\$\w+|`[^`]+`",
    re.MULTILINE,
)


class Scored(NamedTuple):
    """A score in 0..1 and its reasons, the weightiest first."""

    score: float
    reasons: tuple[str, ...]


class _Part(NamedTuple):
    """What speaks for a hard question.

    `weight` is the score of one with nothing else to it, where `degree` is 1. From `telling` on,
    as a part in the score, it is named among the reasons.
    """

    reason: str
    weight: float
    degree: float
    telling: float = 0.1


def score(request: ChatRequest, context_tokens: int | None) -> Scored:
    """How hard a request is; `context_tokens`: what the local model reads.

    Each part adds to what the others leave: 1 - product of (1 - weight x degree). So any of them
    can make a question hard, none makes it easier, and all together stay below 1.
    """
    question, grounding = asked(request), request.grounding
    needed = _needed(grounding) if grounding else 0
    parts = [
        *_parts(question),
        _Part("several passages", 0.4, min(1.0, max(0, needed - 1) / 3)),
        _prompt(request, context_tokens),
    ]
    left = math.prod(1 - part.weight * part.degree for part in parts)
    telling = [part for part in parts if part.weight * part.degree >= part.telling]
    reasons = [part.reason for part in sorted(telling, key=lambda p: -p.weight * p.degree)]
    if not reasons:
        reasons.append("short" if _length(question) < _SHORT else "plain")
    if needed == 1:
        reasons.append("one passage")
    return Scored(1 - left, tuple(reasons))


def asked(request: ChatRequest) -> str:
    """The user's last message as it was written, the beginning of a very long one."""
    said = (m for m in reversed(request.messages) if m["role"] == "user")
    return str(next(said, {}).get("content") or "")[:_LOOKED_AT]


def prompt_tokens(request: ChatRequest) -> int:
    """The prompt's tokens, tools included, rather too many than too few."""
    tools = request.options.get("tools")
    texts = [str(message.get("content") or "") for message in request.messages]
    return sum(map(estimate_tokens, texts)) + (estimate_tokens(str(tools)) if tools else 0)


def _parts(question: str) -> Iterator[_Part]:
    plain = " ".join(map(fold, words(question)))
    length = _length(question)
    yield _Part("long", 0.5, length / (length + _MIDDLING), telling=0.25)
    for reason, weight, pattern in _CUES:
        found = {match[0] for match in pattern.finditer(plain)}
        yield _Part(reason, weight, min(1.0, 0.8 + 0.2 * (len(found) - 1)) if found else 0.0)
    marks = len(_ASKED.findall(question)) + len(_LISTED.findall(question))
    more = max(0, marks - 1) + len(_ANOTHER.findall(plain))
    yield _Part("several questions", 0.5, min(1.0, more / 2))
    yield _Part("numbers", 0.3, min(1.0, max(0, len(_NUMBER.findall(question)) - 1) / 2))
    yield _Part("code", 0.5, min(1.0, len(_CODE.findall(question)) / 2))


def _length(question: str) -> int:
    """In letters of an alphabet: one of a script without one (漢字) says as much as three."""
    return sum(3 if unicodedata.east_asian_width(c) in "WF" else 1 for c in question.strip())


def _needed(grounding: Grounding) -> int:
    """How many passages it takes to say nearly all that they say together of the question.

    Taken greedily, each time the one that adds most of the question's weight.
    """
    weights = grounding.terms
    said = [_terms(f"{p.title}\n{p.text}", weights) for p in grounding.passages]
    missing = set[str]().union(*said)

    def weight(terms: Iterable[str]) -> float:
        return sum(weights[one] for one in terms)

    bearable, needed = (1 - _ENOUGH) * weight(missing), 0
    while weight(missing) > bearable:
        missing -= max(said, key=lambda terms: weight(missing.intersection(terms)))
        needed += 1
    return max(needed, min(1, len(said)))


def _terms(text: str, wanted: Mapping[str, float]) -> set[str]:
    """Those of the wanted terms that a text has; pairs only where some are wanted."""
    listed = words(text)
    found = {term(word) for word in set(listed)}
    if any("_" in one for one in wanted):
        found.update(bigrams(map(fold, listed)))
    return found.intersection(wanted)


def _prompt(request: ChatRequest, context_tokens: int | None) -> _Part:
    """The fuller the context, the more a small model overlooks: from a half of it on."""
    filled = prompt_tokens(request) / (context_tokens or UNKNOWN_CONTEXT)
    return _Part("long prompt", 0.4, min(1.0, max(0.0, 2 * filled - 1)))
