"""BM25 in tantivy."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from rag_backend.errors import StorageLost
from rag_backend.knowledge.filters import Selection
from rag_backend.knowledge.lexical import REACH, LexicalIndex, body_tokens
from rag_backend.knowledge.models import SearchableFile
from rag_backend.text import fold

TEXTS = {
    "law:0": "Luật Giao thông đường bộ quy định tốc độ tối đa trong khu dân cư.",
    "law:1": "Người điều khiển xe máy phải đội mũ bảo hiểm.",
    "book:0": "Employees report stolen laptops to the security desk within two hours.",
    "book:1": "The canteen serves lunch at noon. Café opens later.",
}
STORE = "vs_a-0"


def entries(texts: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(item, item.split(":")[0], text) for item, text in texts.items()]


@pytest.fixture
def index(tmp_path: Path) -> LexicalIndex:
    made = LexicalIndex(tmp_path)
    made.replace(STORE, [], entries(TEXTS))
    return made


def best(index: LexicalIndex, query: str) -> str | None:
    found = index.search(STORE, query, 10)
    return found[0][0] if found else None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("tốc độ tối đa", "law:0"),
        ("toc do toi da", "law:0"),
        (unicodedata.normalize("NFD", "mũ bảo hiểm"), "law:1"),
        ("MŨ BẢO HIỂM", "law:1"),
        ("mu bao hiem", "law:1"),
        ("a laptop was stolen", "book:0"),
        ("reporting a theft of laptop", "book:0"),
        ("lunches", "book:1"),
        ("quantum", None),
        ("!?", None),
        ("", None),
    ],
)
def test_what_a_query_finds(index: LexicalIndex, query: str, expected: str | None) -> None:
    assert best(index, query) == expected


def test_bigrams_tell_vietnamese_words_from_their_syllables(tmp_path: Path) -> None:
    made = LexicalIndex(tmp_path)
    pair = {"a:0": "thông báo về giao hàng", "b:0": "giao thông đường bộ"}
    made.replace(STORE, [], entries(pair))
    assert best(made, "giao thông") == "b:0"
    assert "giao_thông" in body_tokens("Giao thông")
    assert not any("_" in token for token in body_tokens("road traffic"))


def test_nfd_text_is_indexed_as_nfc(tmp_path: Path) -> None:
    made = LexicalIndex(tmp_path)
    made.replace(STORE, [], [("a:0", "a", unicodedata.normalize("NFD", "nồng độ cồn"))])
    assert best(made, "nồng độ cồn") == "a:0"


def selection(files: list[str], share: float) -> Selection:
    return Selection([SearchableFile(file, "1", {}) for file in files], share, lambda _: {})


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_only_the_files_asked_for(index: LexicalIndex, share: float) -> None:
    everything = index.search(STORE, "xe lunch tốc độ laptop", 10)
    only = index.search(STORE, "xe lunch tốc độ laptop", 10, selection(["book"], share))
    assert {item for item, _ in only} == {"book:0", "book:1"}
    assert dict(only).items() <= dict(everything).items()  # the filter changes no score
    assert index.search(STORE, "lunch", 10, selection(["nobody"], share)) == []


def test_what_a_filter_lets_through_lies_far_down(index: LexicalIndex) -> None:
    index.replace(STORE, [], [(f"more:{n}", "more", "lunch lunch lunch") for n in range(60)])
    found = index.search(STORE, "lunch", 1, selection(["book"], 0.5))
    assert [item for item, _ in found] == ["book:1"]


def test_replacing_is_one_commit(index: LexicalIndex) -> None:
    index.replace(STORE, ["law"], [("law:0", "law", "Điều luật mới về đèn đỏ")])
    assert index.ids(STORE) == {"law:0", "book:0", "book:1"}
    assert index.count(STORE) == 3
    assert best(index, "đèn đỏ") == "law:0"
    assert best(index, "mũ bảo hiểm") is None


def test_a_store_without_an_index_is_empty_and_stays_so(
    index: LexicalIndex, tmp_path: Path
) -> None:
    index.replace("vs_b-0", ["law"], [])
    assert index.search("vs_b-0", "lunch", 5) == []
    assert (index.count("vs_b-0"), index.ids("vs_b-0")) == (0, set())
    assert index.term_weights("vs_b-0", "lunch") == {"lunch": 1.0}
    index.drop("vs_b-0")
    assert [path.name for path in tmp_path.iterdir()] == [STORE]


def test_a_dropped_index_is_gone(index: LexicalIndex, tmp_path: Path) -> None:
    index.drop(STORE)
    assert index.search(STORE, "lunch", 5) == []
    assert list(tmp_path.iterdir()) == []


def test_reopened(index: LexicalIndex, tmp_path: Path) -> None:
    assert LexicalIndex(tmp_path).ids(STORE) == index.ids(STORE) == set(TEXTS)


def test_rare_terms_weigh_more(index: LexicalIndex) -> None:
    index.replace(STORE, [], [(f"more:{n}", "more", "lunch again") for n in range(20)])
    weights = index.term_weights(STORE, "lunch for the stolen quantum laptop")
    assert 0 < weights["lunch"] < weights["laptop"] < weights["quantum"]


def test_in_a_small_store_a_word_that_is_there_counts(index: LexicalIndex, tmp_path: Path) -> None:
    alone = LexicalIndex(tmp_path / "alone")
    alone.replace(STORE, [], [("leave:0", "leave", "Annual leave is approved by the studio lead.")])
    weights = alone.term_weights(STORE, "annual leave certificate")
    assert weights["annual"] > 0.7 * weights["certif"]


def test_terms_without_accents_are_weighed_by_the_folded_field(index: LexicalIndex) -> None:
    weights = index.term_weights(STORE, fold("quy định của Luật Giao thông là gì"))
    assert weights["giao"] == weights["giao_thong"] < index.term_weights(STORE, "zzz")["zzz"]


def test_a_pasted_page_is_not_too_long_a_query(index: LexicalIndex) -> None:
    page = " ".join(f"word{n}" for n in range(20_000))
    assert best(index, f"lunch {page}") == "book:1"


def test_a_damaged_index_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / STORE).mkdir()
    (tmp_path / STORE / "meta.json").write_text("not json")
    with pytest.raises(StorageLost, match="ingest rebuild"):
        LexicalIndex(tmp_path).search(STORE, "lunch", 5)


def test_words_that_are_not_written_apart(index: LexicalIndex) -> None:
    index.replace(
        STORE, [], [("ja:0", "ja", "データを圧縮して保存する"), ("ja:1", "ja", "画像を表示する")]
    )
    assert best(index, "圧縮") == "ja:0"
    assert best(index, "画像の表示") == "ja:1"


def ranked(index: LexicalIndex, query: str) -> list[str]:
    return [item for item, _ in index.search(STORE, query, 10)]


def test_a_rare_question_word_does_not_lead_astray(tmp_path: Path) -> None:
    made = LexicalIndex(tmp_path)
    texts = {
        "a:0": "Lambdas in a loop share one variable.",
        "b:0": "Nobody knows why the harbour was closed.",
        "c:0": "A loop runs until its condition fails.",
        "d:0": "Der Vertrag endet nach drei Monaten.",
        "e:0": "Niemand weiß, wie der Hafen geschlossen wurde und warum.",
    }
    made.replace(STORE, [], entries(texts))
    assert ranked(made, "Why do lambdas behave like this?")[0] == "a:0"
    assert ranked(made, "Warum und wie endet der Vertrag?")[0] == "d:0"
    assert ranked(made, "why") == ["b:0"]  # still a word


def test_what_stands_around_a_chunk_counts(tmp_path: Path) -> None:
    made = LexicalIndex(tmp_path)
    texts = {
        "harbour:0": "The harbour of Hải Phòng was built long ago.",
        "harbour:1": "Tàu vào cảng phải trả phí theo trọng tải.",
        "harbour:2": "It closes at nine in winter.",
        "harbour:3": "Boats leave every hour.",
        "harbour:4": "The ticket office is red.",
        "market:0": "It closes at nine in winter.",
    }
    made.replace(STORE, [], entries(texts))
    assert ranked(made, "Does the harbour close at nine in winter?")[0] == "harbour:2"
    assert ranked(made, "cang tra phi")[0] == "harbour:1"
    assert set(ranked(made, "harbour")) == {"harbour:0", "harbour:1", "harbour:2"}
    assert ranked(made, "harbour")[0] == "harbour:0"


def test_what_stands_around_a_slice_counts_as_within_a_file(tmp_path: Path) -> None:
    texts = [f"part{n} speaks of subject{n}" for n in range(7)]
    whole, sliced = LexicalIndex(tmp_path / "whole"), LexicalIndex(tmp_path / "sliced")
    whole.replace(STORE, [], [(f"a:{n}", "a", text) for n, text in enumerate(texts)])
    for start, stop in ((0, 3), (3, 5), (5, 7)):
        near = range(max(0, start - REACH), min(7, stop + REACH))
        ids = {n: f"a:{n}" for n in range(start, stop)}
        sliced.replace(STORE, [], [(ids.get(n), "a", texts[n]) for n in near])
    assert sliced.ids(STORE) == whole.ids(STORE)
    for n in range(7):
        found = dict(sliced.search(STORE, f"subject{n}", 7))
        assert found == pytest.approx(dict(whole.search(STORE, f"subject{n}", 7)))
