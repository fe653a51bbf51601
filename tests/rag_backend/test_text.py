"""Normal forms of text."""

from __future__ import annotations

import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag_backend import text


@pytest.mark.parametrize(
    ("written", "folded"),
    [("Luật Đường bộ", "luat duong bo"), ("ĐƯỢC", "duoc"), ("naïve", "naive"), ("12 km", "12 km")],
)
def test_fold(written: str, folded: str) -> None:
    assert text.fold(written) == folded
    assert text.fold(unicodedata.normalize("NFD", written)) == folded


def test_nfc_composes_and_replaces_what_no_database_takes() -> None:
    assert text.nfc(unicodedata.normalize("NFD", "Việt")) == "Việt"
    assert text.nfc("a\ud800b") == "a?b"


@pytest.mark.parametrize(
    "variant",
    [
        "Công ty có khám sức khoẻ không?",
        "công ty CÓ khám  sức khoẻ không",
        unicodedata.normalize("NFD", "Công ty có khám sức khoẻ không ?!"),
        "  «Công ty» có, khám sức khoẻ không…",
        "Công ty có khám sức khỏe không?",
    ],
)
def test_equal_questions_have_one_key(variant: str) -> None:
    assert text.question_key(variant) == "công ty có khám sức khỏe không"


def test_questions_that_differ_in_an_accent_have_different_keys() -> None:
    assert text.question_key("bán gì") != text.question_key("bàn gì")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Xe máy được chở mấy người", True),
        ("xin chào", True),
        ("muc phat giao thong la bao nhieu", True),
        ("truyen kieu do ai sang tac", True),
        ("cach nau pho bo ngon nhu the nao", True),
        ("How long is the notice period?", False),
        ("Can the man go to the hotel then?", False),
        ("Où est le café?", False),
        ("", False),
    ],
)
def test_is_vietnamese(written: str, expected: bool) -> None:
    assert text.is_vietnamese(written) is expected


def test_short_vietnamese_with_accents_of_other_languages() -> None:
    assert text.kind_of("Bàn phím") == text.kind_of("In hình") == "vi"
    for other in ("cómo imprimir", "où est la clé", "über uns", "naïve approach", "café"):
        assert text.kind_of(other) == "en", other


def test_content_words_keep_something_of_a_question_of_stop_words() -> None:
    assert text.content_words("What is it?") == ["what", "is", "it"]
    assert text.content_words("How much is the lunch allowance?") == ["lunch", "allowance"]


def test_query_terms_pair_neighbours_of_unaccented_vietnamese() -> None:
    assert "giao_thong" in text.query_terms("quy dinh cua luat giao thong la gi")
    assert not any("_" in term for term in text.query_terms("speed limit in the city"))


def test_every_query_term_is_present_in_the_text_it_came_from() -> None:
    written = "Thùng hàng sau xe máy được cao tối đa 80 cm"
    assert set(text.query_terms(text.fold(written))) <= text.present_terms(written)
    assert set(text.query_terms(written)) <= text.present_terms(written)


def test_stemming_is_the_same_from_any_thread() -> None:
    listed = ["warehouses", "relational", "nationality", "photographs", "conditions"] * 400
    stem = text.stem.__wrapped__  # the cache would hide it
    with ThreadPoolExecutor(4) as pool:
        stems = list(pool.map(stem, listed))
    assert stems == [stem(word) for word in listed]


def test_numbers_have_endings_too() -> None:
    written = ["19th", "21st", "1960s", "90s", "4s", "mp3", "h2o", "1th2"]
    assert [text.stem(word) for word in written] == [
        *("19", "21", "1960", "90"),
        *(word for word in written[4:]),
    ]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("Điều 3 quy định gì?", {"dieu 3"}),
        ("khoan 2 dieu 12 chuong ii", {"dieu 12", "chuong ii"}),
        ("What does Section 4.2 say?", {"section 4.2"}),
        ("Điều kiện hưởng phép năm 2024", set()),
        ("Mức 5 triệu đồng", set()),
        ("muc 5 trieu dong", set()),
        ("Chương I nói gì, mục 5?", {"chuong i", "muc 5"}),
        ("Which part I need", set()),
        ("Part I of the lease", {"part i"}),
    ],
)
def test_references(said: str, named: set[str]) -> None:
    assert text.references(said) == named


def test_vowels_written_as_marks_belong_to_their_word() -> None:
    assert text.words("हिन्दी में") == ["हिन्दी", "में"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("luật", ["luật"]),
        ("日本語", ["日本", "本語"]),
        ("linux用", ["linux", "用"]),
        ("한국어", ["한국어"]),
        ("ไทย", ["ไท", "ทย"]),
    ],
)
def test_pieces_of_a_word(word: str, expected: list[str]) -> None:
    assert text.pieces(word) == expected


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("Luật đất đai", "vi"),
        ("là gì", "vi"),
        ("quy dinh cua luat giao thong", "vi-unaccented"),
        ("Land law", "en"),
        ("Größe, naïve", "en"),
        ("Закон о земле", "cyrillic"),
        ("日本語のマニュアル", "cjk"),
        ("", "en"),
        ("?! 42", "en"),
    ],
)
def test_kind_of(written: str, kind: str) -> None:
    assert text.kind_of(written) == kind
    assert text.kind_of(unicodedata.normalize("NFD", written)) == kind


def test_the_number_that_a_heading_bears() -> None:
    assert text.numbered("Điều 7. Sửa đổi, bổ sung Điều 5") == "dieu 7"
    assert text.numbered("CHƯƠNG II") == "chuong ii"
    assert text.numbered("Sửa đổi Điều 5") is None


@pytest.mark.parametrize(
    ("headings", "asked", "borne"),
    [
        (["Chương II. Bạn đọc", "Điều 3. Thẻ"], "Điều 3 Chương II", True),
        (["Chương II. Bạn đọc", "Điều 3. Thẻ"], "Điều 3 Chương I", False),
        (["Chương II. Bạn đọc", "Điều 3. Thẻ"], "Điều 3 và Điều 5", True),
        (["Chương II. Bạn đọc", "Điều 3. Thẻ"], "What is in Chapter 2?", True),
        (["Chương II. Bạn đọc", "Điều 3. Thẻ"], "Article 3", True),
        (["Điều 30. Thẻ"], "Điều 3", False),
        (["3. Equipment", "3.2 Vehicles"], "section 3.2", True),
        (["3. Equipment", "3.2 Vehicles"], "Article 3", True),
        (["Điều 5. Mượn", "1. Sách"], "Điều 1", False),
        (["Article IV"], "article 4", True),
        (["Annual leave"], "Section 1", False),
        (["Điều 3"], "thẻ bạn đọc", False),
    ],
)
def test_the_headings_of_the_part_that_is_asked_for(
    headings: list[str], asked: str, borne: bool
) -> None:
    assert text.bears(headings, text.references(asked)) == borne


def test_a_text_that_names_a_part() -> None:
    assert text.mentions("Xem Điều 9 của quy chế.", {"article 9"})
    assert not text.mentions("Xem Điều 9 của quy chế.", {"dieu 8"})


def test_a_word_with_a_digit_hides_no_language() -> None:
    assert text.language_of("giay A4 de o dau") == "vi"
    assert text.language_of("the mp3 player is here now") == "en"


def test_how_often_says_nothing_of_what_is_asked() -> None:
    assert text.content_words("How often is it reviewed?") == ["reviewed"]
