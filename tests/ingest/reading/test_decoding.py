"""Encodings: what Windows, Excel and old Vietnamese programs write."""

from __future__ import annotations

import random
import unicodedata

import pytest

from ingest.errors import UnreadableFile
from ingest.reading.cleaning import clean
from ingest.reading.decoding import _TCVN3, decode
from tests.ingest.reading.samples import VIETNAMESE, cp1258

TEXTS = [VIETNAMESE, VIETNAMESE[:60], "Xin chào các bạn", "Paid leave: 14 days a year."]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_unicode_with_and_without_mark(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding), "a.txt") == text


@pytest.mark.parametrize("text", TEXTS)
def test_vietnamese_code_page_1258_comes_out_composed(text: str) -> None:
    assert decode(cp1258(text), "a.txt") == unicodedata.normalize("NFC", text)


def test_vietnamese_tcvn3() -> None:
    table = {letter: byte for byte, letter in _TCVN3.items()}
    data = bytes(table.get(letter) or ord(letter) for letter in VIETNAMESE)
    assert decode(data, "a.txt") == VIETNAMESE


@pytest.mark.parametrize(
    "text",
    [
        "Où êtes-vous ? Le café est fermé, déjà depuis l'été.",
        "Die Straße ist für Fußgänger geöffnet. Größe und Qualität über alles.",
        "Não há informação sobre a situação do cartão.",
        "El niño comió una manzana mañana.",
    ],
)
def test_western_text_is_not_taken_for_vietnamese(text: str) -> None:
    assert decode(text.encode("cp1252"), "a.txt") == text


def test_nfd_becomes_nfc() -> None:
    assert decode(unicodedata.normalize("NFD", VIETNAMESE).encode(), "a.txt") == VIETNAMESE


def test_zero_bytes_and_control_characters_go() -> None:
    assert decode(b"one\x00two\x07 three\r\nfour\x1b[0m", "a.txt") == "onetwo three\nfour[0m"


def test_a_cut_utf8_file_keeps_its_text() -> None:
    data = (VIETNAMESE * 20).encode()[:-20] + "Đ".encode()[:1]
    assert decode(data, "a.txt").startswith(VIETNAMESE)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_text(seed: int) -> None:
    with pytest.raises(UnreadableFile, match="not text") as caught:
        decode(random.Random(seed).randbytes(5000), "a.txt")
    assert caught.value.code == "unsupported_file"


def test_clean_removes_what_cannot_be_stored_or_seen() -> None:
    assert clean("a\ud800b\ufffec\u00add\u200be\ufeff") == "abcde"
    assert clean("a\u2028b\x0bc\x85d\r\ne\rf") == "a\nb\nc\nd\ne\nf"
    assert clean("1\u00a0000\u202fđ") == "1 000 đ"


def test_a_tower_of_marks_does_not_take_quadratic_time() -> None:
    assert len(clean("a" + "\u0300\u0323" * 500_000)) < 20
