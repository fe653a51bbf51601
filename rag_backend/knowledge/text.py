"""Normal forms of text: what is compared, indexed and looked up.

Documents and queries pass the same functions, so a query in NFD, or typed without diacritics,
meets the text it means.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

import snowballstemmer

_WORD = re.compile(r"\w+", re.UNICODE)
_D_STROKE = str.maketrans({"đ": "d", "Đ": "D"})  # has no canonical decomposition
_VIETNAMESE = frozenset("ăâđêôơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ")

_ENGLISH_STOP_WORDS = (
    "a an the of to in on at for by with from as is are was were be been do does did can could may "
    "might must shall should will would have has had how what when where which who whom whose why "
    "i me my we us our you your he she it its they them their this that these those and or not no "
    "if there here any many much long per each than then about into after before tell please"
)
_VIETNAMESE_STOP_WORDS = (
    "là của và có cho các những một được không khi thì mà với này kia đó ở tại bao nhiêu gì nào ai "
    "sao thế như để từ đến trong ngoài trên dưới bị phải tôi mình chúng ta bạn anh chị em hãy xin "
    "về ra vào sẽ đã đang rồi cần hay hoặc nếu lâu mấy hỏi biết"
)
STOP_WORDS = frozenset(f"{_ENGLISH_STOP_WORDS} {_VIETNAMESE_STOP_WORDS}".split())
"""Question words and function words: they say nothing about what a passage is about."""


def nfc(text: str) -> str:
    """Canonical composition, the form in which everything is stored."""
    return unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """Lower case without diacritics: "Luật Đường bộ" → "luat duong bo"."""
    decomposed = unicodedata.normalize("NFD", text.casefold())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    return unicodedata.normalize("NFC", bare).translate(_D_STROKE)


def words(text: str) -> list[str]:
    """Lower-case words (for Vietnamese: syllables), in order."""
    return _WORD.findall(nfc(text).casefold())


def has_vietnamese_letters(text: str) -> bool:
    """Whether any letter is written in Vietnamese only (French or Czech accents do not count)."""
    return not _VIETNAMESE.isdisjoint(nfc(text).casefold())


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """English stem (Snowball) of an ASCII word; any other word unchanged.

    ASCII Vietnamese syllables pass through the same stemmer on both sides, so they still meet.
    """
    return str(_stemmer().stemWord(word)) if word.isascii() else word


@lru_cache(maxsize=1)
def _stemmer() -> snowballstemmer.stemmer:
    return snowballstemmer.stemmer("english")


def bigrams(tokens: Iterable[str]) -> list[str]:
    """Neighbouring pairs, joined by "_": Vietnamese words are mostly two syllables long."""
    listed = list(tokens)
    return [f"{a}_{b}" for a, b in itertools.pairwise(listed)]


def content_terms(text: str) -> list[str]:
    """Folded, stemmed words that carry meaning, each once, in order of appearance.

    Stop words are recognised before folding, so that "ban" (no diacritics) stays a content word
    while "bạn" does not count. If nothing else is left, all words count.
    """
    listed = words(text)
    meaningful = [word for word in listed if word not in STOP_WORDS] or listed
    return list(dict.fromkeys(stem(fold(word)) for word in meaningful))


def question_key(text: str) -> str:
    """The form in which two questions are "the same": NFC, case, space and punctuation folded."""
    return " ".join(words(text))
