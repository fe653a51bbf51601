"""Bytes of a text file to characters, whatever wrote them."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

from charset_normalizer import from_bytes

from ingest.errors import UnreadableFile
from ingest.reading.cleaning import clean

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 64 * 1024
_MOST_CONTROLS = 0.02
_MOST_BROKEN = 0.01
_CONTROLS = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_VOWELS = "".join(
    unicodedata.normalize("NFC", base + tone)
    for base in "aăâeêioôơuưy"
    for tone in ("", "\u0300", "\u0301", "\u0303", "\u0309", "\u0323")
)
_SYLLABLE = re.compile(
    f"(?:ngh|[cgknpt]h|ng|gi|qu|tr|[bcdđghklmnpqrstvx])?[{_VOWELS}]{{1,3}}(?:ch|ng|nh|[cmnpt])?"
)
_WORD = re.compile(r"[^\W\d_]+")
# TCVN 5712:1993 (TCVN3, "ABC" fonts, .VnTime): bytes 0xA1 and up. Capitals with a tone mark are
# written with the lower-case code in a capital font, so they have none of their own.
_TCVN3 = {
    **dict(zip(range(0xA1, 0xAF), "ĂÂÊÔƠƯĐăâêôơưđ", strict=True)),
    **dict(zip(range(0xB5, 0xBA), "àảãáạ", strict=True)),
    **dict(zip(range(0xBB, 0xBF), "ằẳẵắ", strict=True)),
    **dict(zip(range(0xC6, 0xCD), "ặầẩẫấậè", strict=True)),
    **dict(zip(range(0xCE, 0xD9), "ẻẽéẹềểễếệìỉ", strict=True)),
    **dict(zip(range(0xDC, 0xE0), "ĩíịò", strict=True)),
    **dict(zip(range(0xE1, 0xF0), "ỏõóọồổỗốộờởỡớợù", strict=True)),
    **dict(zip(range(0xF1, 0xFF), "ủũúụừửữứựỳỷỹýỵ", strict=True)),
}


def read_text(path: Path, name: str) -> str:
    """The file's characters, cleaned.

    Raises:
        UnreadableFile: the bytes are no text in any encoding known.
    """
    return decode(path.read_bytes(), name)


def decode(data: bytes, name: str) -> str:
    """The characters of `data`, cleaned: by mark, as UTF-8, UTF-16, then legacy encodings.

    Raises:
        UnreadableFile: `data` is no text in any encoding known.
    """
    text = _by_mark(data)
    if text is None:
        text = _utf16(data)
    if text is None:
        # A zero byte is in no one-byte encoding's text; some programs pad with it.
        data = data.replace(b"\x00", b"")
        text = _utf8(data)
        if text is None:
            text = _legacy(data)
    if text is None or _is_noise(text):
        raise UnreadableFile(
            f"{name} is not text in an encoding that is known; save it as UTF-8.",
            "unsupported_file",
        )
    return clean(text)


def _by_mark(data: bytes) -> str | None:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    return None


def _utf16(data: bytes) -> str | None:
    """UTF-16 without a mark: every second byte is zero for most Latin text, spaces included."""
    sample = data[: _SAMPLE - _SAMPLE % 2]
    if len(sample) < 4:
        return None
    for offset, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        high, low = sample[offset::2], sample[1 - offset :: 2]
        if high.count(0) > 0.3 * len(high) and low.count(0) < 0.02 * len(low):
            text = data.decode(encoding, errors="replace")
            return None if _is_noise(text) else text
    return None


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    # A file cut in the middle, or with one bad byte: still UTF-8 where that explains the rest.
    text = data.decode("utf-8", errors="replace")
    accented = sum(1 for c in text[:_SAMPLE] if c > "\x7f")
    broken = text.count("\ufffd", 0, _SAMPLE)
    return text if broken <= max(2, _MOST_BROKEN * len(text)) and broken * 5 < accented else None


def _legacy(data: bytes) -> str | None:
    """One-byte Vietnamese where the letters say so; else the best guess for the bytes."""
    for text in (data.decode("cp1258", errors="replace"), _from_tcvn3(data)):
        text = unicodedata.normalize("NFC", text)
        if _is_vietnamese(text[:_SAMPLE]):
            return text
    guesses = from_bytes(data[: 4 * _SAMPLE])
    best = guesses.best()
    if best is None:
        return None
    names = {guess.encoding for guess in guesses}
    # Short Western texts fit many code pages equally; the common one is right most often.
    encoding = "cp1252" if "cp1252" in names else best.encoding
    return data.decode(encoding, errors="replace")


def _from_tcvn3(data: bytes) -> str:
    return data.decode("latin-1").translate(_TCVN3)


def _is_vietnamese(text: str) -> bool:
    """Whether as many words carry marks as they would, and nearly all of those are syllables."""
    words = _WORD.findall(text.casefold())
    accented = [word for word in words if not word.isascii()]
    if not accented or len(accented) < 0.3 * len(words):
        return False
    syllables = sum(1 for word in accented if _SYLLABLE.fullmatch(word))
    stray = sum(1 for c in text if unicodedata.combining(c) or c == "\ufffd")
    return syllables >= 0.9 * len(accented) and stray <= 0.02 * len(accented)


def _is_noise(text: str) -> bool:
    sample = text[:_SAMPLE]
    odd = len(_CONTROLS.findall(sample)) + sample.count("\ufffd")
    unassigned = sum(1 for c in sample[:4096] if unicodedata.category(c) in ("Cn", "Co"))
    return odd > _MOST_CONTROLS * len(sample) + 2 or unassigned > 0.1 * len(sample[:4096])
