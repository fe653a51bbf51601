"""Words as the extractive provider compares them.

The same forms as the store's index uses for a query's terms (lower case, no diacritics, English
stems), written again here because providers and knowledge do not import each other.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from functools import lru_cache

import snowballstemmer

_WORD = re.compile(r"\w+")
_D_STROKE = str.maketrans("đ", "d")
_VIETNAMESE = frozenset("ăâđêôơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ")
_UNACCENTED = frozenset(
    "bao nhieu nhung duoc khong khi thi voi nay kia tai gi nao nhu trong ngoai tren duoi phai "
    "toi chung xin chao nguoi ngay thang gio phut quy dinh luat giao thong muc phat tien nhan "
    "vien cong ty nghi phep luong lam viec hoi cho biet cua va cac mot ve".split()
)


def words(text: str) -> list[str]:
    """Lower-case words (for Vietnamese: syllables), in order."""
    return _WORD.findall(unicodedata.normalize("NFC", text).casefold())


def fold(word: str) -> str:
    """A lower-case word without diacritics: "đường" → "duong"."""
    bare = (c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
    return "".join(bare).translate(_D_STROKE)


@lru_cache(maxsize=65_536)
def term(word: str) -> str:
    """A lower-case word as a term: folded, and stemmed as an English word."""
    return str(_stemmer().stemWord(fold(word)))


@lru_cache(maxsize=1)
def _stemmer() -> snowballstemmer.stemmer:
    return snowballstemmer.stemmer("english")


def pairs(listed: list[str]) -> list[str]:
    """Neighbouring words, folded and joined by "_"."""
    return [f"{a}_{b}" for a, b in itertools.pairwise(map(fold, listed))]


def language_of(text: str) -> str:
    """ "vi" or "en": Vietnamese by its letters or, without them, by frequent syllables."""
    listed = words(text)
    if not _VIETNAMESE.isdisjoint("".join(listed)):
        return "vi"
    # Folded: "chào" has only an accent that French has too.
    known = sum(fold(word) in _UNACCENTED for word in listed)
    return "vi" if known >= 2 and known * 3 >= len(listed) else "en"
