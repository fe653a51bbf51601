"""Normal forms of text: what is compared, indexed and looked up.

Documents and queries pass the same functions, so a query in NFD, or typed without diacritics,
meets the text it means.
"""

from __future__ import annotations

import itertools
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from functools import lru_cache

import snowballstemmer

from rag_backend.stop_words import ENGLISH_OR_VIETNAMESE, stop_words_of

# Marks that NFC leaves apart belong to their word: Hindi and Thai write vowels with them.
_MARKS = "".join(chr(c) for c in range(0x0300, 0x1AFF) if unicodedata.category(chr(c))[0] == "M")
_WORD = re.compile(rf"[\w{_MARKS}]+")
# Scripts that leave no space between words: Thai, Lao, Burmese, Khmer, kana, Chinese characters.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
_UNSPACED_RUN = re.compile(rf"([{_UNSPACED}]+)")
_D_STROKE = str.maketrans({"đ": "d", "Đ": "D"})  # has no canonical decomposition
_VIETNAMESE = frozenset("ăâđêôơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ")

# Vietnamese words all of whose accents other languages have too.
_SHARED_LETTERS = frozenset(
    "là và có gì nào chào xin cám này kìa lúc khi thì mà bà ông cô chú".split()
)

# Frequent Vietnamese syllables as they look without diacritics, none of them an English word.
_UNACCENTED = frozenset(
    (
        "cua va cho cac nhung mot duoc khong khi thi voi nay kia tai bao nhieu gi nao nhu tu trong "
        "ngoai tren duoi phai toi chung anh chi xin ve nguoi ngay thang gio phut quy dinh luat "
        "giao thong muc phat tien xe vien cong ty nghi phep luong lam viec chao hom la nuoc thu "
        "tuc dang ky hiem xa hoi hop dong thue nha dat dau ngan hang dien thoai gia biet giup "
        "phi lai dieu khoan noi"
    ).split()
)


# A syllable of Vietnamese as it looks without diacritics ...
_SYLLABLE = re.compile(
    "(?:ngh|ng|nh|gh|gi|kh|ph|qu|th|tr|ch|[bcdghklmnprstvx])?"
    "(?:oai|oao|oay|oeo|uai|uay|uoi|uou|uya|uye|uyu|ieu|yeu|ai|ao|au|ay|eo|eu|ia|ie|iu|oa|oe|oi|ua|"
    "ue|ui|uo|uu|uy|ye|[aeiouy])"
    "(?:ch|ng|nh|[cmnpt])?"
)
# ... and what in it hardly any English word has that looks like one.
_UNLIKE_ENGLISH = re.compile(
    "^(?:ngh?|nh|kh|tr[au])|ieu|uye|uoi|uo[nmc]|oai|^gi[aou]|[aeo][uo]$|ie[mn]"
)

# The numbered parts of laws and handbooks. "Mức 5" is an amount, and not "Mục 5".
# Nor is "the part I need" Part I.
_PART = (
    r"\b(?:(điều|chương|mục|phần|phụ lục) (\d+(?:\.\d+)*|[ivxlc]+)"
    r"|(article|section|chapter|part|appendix|annex) "
    r"(\d+(?:\.\d+)*|[ivxlc]{2,}|[vxlc]|i(?! (?!of\b)\w)))\b"
    r"(?!['’]|\s*(?:%|(?:triệu|nghìn|ngàn|tỷ|đồng|phần trăm)\b))"
)

# "hoà" and "hòa" are spellings of one word; so are all these at the end of a syllable.
_SPELLINGS = dict(
    zip(
        "oà oá oả oã oạ oè oé oẻ oẽ oẹ uỳ uý uỷ uỹ uỵ".split(),
        "òa óa ỏa õa ọa òe óe ỏe õe ọe ùy úy ủy ũy ụy".split(),
        strict=True,
    )
)
_TWO_SPELLINGS = re.compile(rf"(?:{'|'.join(_SPELLINGS)})\b")


_ONE_KIND = {
    "article": "dieu",
    "chapter": "chuong",
    "section": "muc",
    "part": "phan",
    "appendix": "phu luc",
    "annex": "phu luc",
}
_WORDS_TOO = frozenset({"vi", "xi", "li", "ci"})
"""Roman numbers that are syllables as well ("những điều vi phạm"): these only in upper case."""
_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}
_BARE_NUMBER = re.compile(r"\s*(\d{1,3}(?:\.\d{1,3})*)[.)]?\s+[^\W\d]")


def nfc(text: str) -> str:
    """Canonical composition, the form in which everything is stored.

    A lone surrogate, which JSON can carry and no database takes, becomes "?".
    """
    return unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode()


_LONGEST_WORD = 24
"""Characters of what is folded once and remembered: words are, texts are not."""


def fold(text: str) -> str:
    """Lower case without diacritics: "Luật Đường bộ" → "luat duong bo"."""
    if text.isascii():
        return text.lower()
    return _folded_word(text) if len(text) <= _LONGEST_WORD else _folded(text)


@lru_cache(maxsize=65_536)
def _folded_word(word: str) -> str:
    return _folded(word)


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text.casefold())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    return unicodedata.normalize("NFC", bare).translate(_D_STROKE)


_FOLDED_STOP_WORDS = frozenset(fold(word) for word in ENGLISH_OR_VIETNAMESE) | {"hom"}


def words(text: str) -> list[str]:
    """Lower-case words (for Vietnamese: syllables), in order, in one spelling ("hoà" as "hòa")."""
    lowered = nfc(text).casefold()
    return _WORD.findall(_TWO_SPELLINGS.sub(lambda found: _SPELLINGS[found[0]], lowered))


def has_vietnamese_letters(text: str) -> bool:
    """Whether any letter is written in Vietnamese only (French or Czech accents do not count)."""
    return not _VIETNAMESE.isdisjoint(nfc(text).casefold())


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """English stem (Snowball) of an ASCII word; any other word unchanged.

    Numbers have endings too: "19th", as a question in another language would not write it, is 19,
    and "1960s" is 1960. ASCII Vietnamese syllables pass through the same stemmer on both sides, so
    they still meet.
    """
    if not word.isascii():
        return word
    if found := _NUMBER.fullmatch(word):
        return found[1] or found[2]
    with _stemming:
        return str(_stemmer().stemWord(word))


_NUMBER = re.compile(r"(\d+)(?:st|nd|rd|th)|(\d{2,})s")  # not "4s", which names a thing
_stemming = threading.Lock()  # a stemmer keeps the word it is working on in itself


@lru_cache(maxsize=1)
def _stemmer() -> snowballstemmer.stemmer:
    return snowballstemmer.stemmer("english")


def term(word: str) -> str:
    """A lower-case word as terms are compared: folded, and stemmed as an English word."""
    return stem(fold(word))


def bigrams(tokens: Iterable[str]) -> list[str]:
    """Neighbouring pairs, joined by "_": Vietnamese words are mostly two syllables long."""
    listed = list(tokens)
    return [f"{a}_{b}" for a, b in itertools.pairwise(listed)]


def pieces(word: str) -> list[str]:
    """A word as it is indexed: pairs of characters where the script does not part words."""
    if word.isascii():
        return [word]
    found: list[str] = []
    for run in filter(None, _UNSPACED_RUN.split(word)):
        unspaced = len(run) > 1 and _UNSPACED_RUN.fullmatch(run)
        found += map("".join, itertools.pairwise(run)) if unspaced else [run]
    return found


def is_vietnamese(text: str) -> bool:
    """Whether a text is Vietnamese: by its letters, by its words, or typed without diacritics."""
    if has_vietnamese_letters(text):
        return True
    listed = words(text)
    known = sum(word in _SHARED_LETTERS for word in listed)
    if known * 2 > len(listed) or is_unaccented_vietnamese(text):
        return True
    # "Bàn phím": accents that other languages have too, on nothing but Vietnamese syllables.
    syllables = all(_SYLLABLE.fullmatch(fold(word)) for word in listed)
    return len(listed) > 1 and syllables and not text.isascii()


def language_of(text: str) -> str:
    """ "vi" or "en"; anything that is not Vietnamese counts as English."""
    return "vi" if is_vietnamese(text) else "en"


def kind_of(text: str) -> str:
    """What sort of text an encoder meets here, which it may know well or not at all.

    "vi"; "vi-unaccented", Vietnamese typed without diacritics; "en", anything else in Latin
    letters; otherwise the Unicode name of the script that most letters belong to, in lower case
    ("cyrillic", "cjk", with Japanese under "cjk" too).
    """
    if has_vietnamese_letters(text):
        return "vi"
    if is_vietnamese(text):
        return "vi-unaccented" if is_unaccented_vietnamese(text) else "vi"
    if text.isascii():
        return "en"
    scripts = Counter(
        unicodedata.name(c, "LATIN").split(maxsplit=1)[0] for c in text[:2000] if c.isalpha()
    )
    most = scripts.most_common(1)[0][0] if scripts else "LATIN"
    return {"LATIN": "en", "HIRAGANA": "cjk", "KATAKANA": "cjk"}.get(most, most.lower())


def is_unaccented_vietnamese(text: str) -> bool:
    """Whether a text is Vietnamese typed without diacritics.

    Judged by its frequent syllables, or by its words all being syllables of that language.
    """
    if has_vietnamese_letters(text):
        return False
    listed = words(text)
    known = sum(word in _UNACCENTED for word in listed)
    if known >= 2 and known * 3 >= len(listed):
        return True
    listed = [word for word in listed if word.isalpha()]  # "A4" is no word of any language
    if len(listed) < 4 or not all(_SYLLABLE.fullmatch(word) for word in listed):
        return False
    return known > 0 or sum(bool(_UNLIKE_ENGLISH.search(word)) for word in listed) >= 2


def content_words(text: str) -> list[str]:
    """Lower-case words that carry meaning, in order; all words if no other is left.

    Stop words are recognised with their diacritics ("bạn" is one, "bán" is not), except in
    Vietnamese typed without any.
    """
    listed = words(text)
    stops = stop_words(text)
    return [word for word in listed if word not in stops] or listed


def stop_words(text: str) -> Collection[str]:
    """Function words and question words of the language that a text seems to be written in."""
    if is_unaccented_vietnamese(text):
        return _FOLDED_STOP_WORDS
    return stop_words_of([piece for word in words(text) for piece in pieces(word)])


def content_terms(text: str) -> list[str]:
    """`content_words`, folded and stemmed, each once."""
    return list(dict.fromkeys(term(word) for word in content_words(text)))


def query_terms(text: str) -> dict[str, str]:
    """{term: word}: `content_terms`, each with the word as it was typed.

    For Vietnamese without diacritics, pairs of neighbours too: one bare syllable can be any of ten
    words ("gia": giá, gia, già …), two together are rarely ambiguous.
    """
    listed = content_words(text)
    terms = {term(word): word for word in listed}
    if is_unaccented_vietnamese(text):
        content = set(listed)
        neighbours = itertools.pairwise(words(text))
        terms |= {f"{a}_{b}": f"{a}_{b}" for a, b in neighbours if {a, b} <= content}
    return terms


def present_terms(text: str) -> frozenset[str]:
    """Every term of `query_terms` that could match in this text."""
    return frozenset(content_terms(text)).union(bigrams(fold(word) for word in words(text)))


def references(text: str) -> frozenset[str]:
    """Numbered parts that a text names: "Điều 5 Chương II" → {"dieu 5", "chuong ii"}."""
    parts = _part_of(text).finditer(nfc(text))
    return frozenset(_named(found) for found in parts if _is_number(found))


def numbered(heading: str) -> str | None:
    """The number that a heading bears ("Điều 7. Sửa đổi Điều 5": "dieu 7"), if it bears one."""
    found = _part_of(heading).match(nfc(heading).lstrip())
    return _named(found) if found and _is_number(found) else None


def bears(headings: Iterable[str], wanted: Collection[str]) -> bool:
    """Whether headings are those of the parts that `references` names: see `borne`."""
    return bool(borne(headings, wanted))


def borne(headings: Iterable[str], wanted: Collection[str]) -> list[tuple[str, str]]:
    """Which of the parts that `references` names headings are: [(kind, number)], in order.

    Numbers are padded, so that as texts they have the order of numbers ("0010" is after "0009").
    Of each kind of part one is enough, since no text stands in two articles; empty where of one
    kind they are none. "Chapter 2" is "Chương II", and "3.2 Repairs" is Section 3.2, or whatever
    else the document's parts are called.
    """
    listed = list(headings)
    named = {_canonical(name) for heading in listed if (name := numbered(heading))}
    bare = {found[1] for heading in listed if (found := _BARE_NUMBER.match(heading))}
    kinds = {kind for kind, _ in named}
    sought = {_canonical(name) for name in wanted}
    met = [
        (kind, number)
        for kind, number in sought
        if (kind, number) in named or (kind not in kinds and number in bare)
    ]
    if {kind for kind, _ in met} != {kind for kind, _ in sought}:
        return []
    return sorted((kind, ".".join(n.zfill(4) for n in number.split("."))) for kind, number in met)


def mentions(text: str, wanted: Collection[str]) -> bool:
    """Whether a text names one of the parts that `references` gives."""
    named = {_canonical(name) for name in references(text)}
    return not named.isdisjoint(_canonical(name) for name in wanted)


def _part_of(text: str) -> re.Pattern[str]:
    return _PARTS if has_vietnamese_letters(text) else _BARE_PARTS


def _is_number(found: re.Match[str]) -> bool:
    number = found[2] or found[4]
    return number.lower() not in _WORDS_TOO or number.isupper()


def _named(found: re.Match[str]) -> str:
    return fold(" ".join(filter(None, found.groups())))


def _canonical(name: str) -> tuple[str, str]:
    """("dieu", "4") of "article iv"."""
    kind, _, number = name.rpartition(" ")
    return _ONE_KIND.get(kind, kind), number if number[0].isdigit() else str(_roman(number))


def _roman(number: str) -> int:
    digits = [_ROMAN[sign] for sign in number]
    after = [*digits[1:], 0]
    return sum(-d if d < n else d for d, n in zip(digits, after, strict=True))


_PARTS = re.compile(_PART, re.IGNORECASE)
_BARE_PARTS = re.compile(fold(_PART), re.IGNORECASE)


def question_key(text: str) -> str:
    """The form in which two questions are "the same": NFC, case, space and punctuation folded."""
    return " ".join(words(text))


def bare_key(text: str) -> str:
    """`question_key` without diacritics, in which many people type."""
    return " ".join(map(fold, words(text)))


def estimated_tokens(text: str) -> int:
    """A text's tokens for an encoder whose tokenizer is not known: hardly ever too few."""
    return -(-len(text.encode()) // 2)
