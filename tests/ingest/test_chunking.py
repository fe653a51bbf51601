"""Chunks: never above the limit, nothing lost, spans true, cut where a reader would cut."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from ingest.chunking import split
from ingest.chunking.sentences import pieces, sentences
from ingest.document import Block, BlockKind, Chunk, Document

WORDS = (
    "nghỉ phép năm Điều 5. khoản người lao động the road speed 3.5 km/h limit TP. HCM đèn đỏ v.v. "
    "fine! why? “quoted.” (đoạn) 1.000.000 đồng - • a | b … 速度。 x"
).split(" ")


def by_words(text: str) -> int:
    """A tokenizer that adds two tokens to every text and counts words and marks."""
    return 2 + len(re.findall(r"\w+|[^\w\s]", text))


def by_letters(text: str) -> int:
    """One that counts every third letter: counts of parts do not add up to the whole's."""
    return (len(text) + 2) // 3


def by_known_words(text: str) -> int:
    """One that counts a word of any length as one token, as WordPiece does with unknown ones."""
    return 2 + len(text.split())


def document(*blocks: Block) -> Document:
    return Document(blocks)


def prose(*texts: str) -> Document:
    return Document(tuple(Block("paragraph", text) for text in texts))


def whole_text(source: Document) -> str:
    return "\n".join(block.text for block in source.blocks)


def random_block(generator: random.Random) -> Block:
    kinds: tuple[BlockKind, ...] = ("paragraph", "heading", "list_item", "table_row", "code")
    kind = generator.choices(kinds, (6, 2, 3, 3, 1))[0]
    size = generator.choice((1, 3, 10, 40, 200))
    separator = "\n" if kind == "code" else " "
    text = separator.join(generator.choices(WORDS, k=size))
    if generator.random() < 0.1:
        text = "dài" * generator.randrange(1, 300)
    level = generator.randrange(1, 7) if kind == "heading" else 0
    row = kind == "table_row"
    header = "Cột | " * generator.choice((1, 2, 60)) + "x" if row else None
    curated = row and generator.random() < 0.3
    return Block(
        kind,
        text,
        level=level,
        page=generator.choice((None, 1, 2)),
        header=header,
        question="Hỏi?" if curated else None,
        answer="Đáp." if curated else None,
    )


@pytest.mark.parametrize("count", [by_words, by_letters, by_known_words])
@pytest.mark.parametrize("most", [12, 40, 256])
@pytest.mark.parametrize("seed", range(8))
def test_limits_spans_and_completeness(count: Callable[[str], int], most: int, seed: int) -> None:
    generator = random.Random(seed)
    source = Document(tuple(random_block(generator) for _ in range(generator.randrange(1, 60))))
    text = whole_text(source)
    chunks = split(source, count, most)
    assert chunks == split(source, count, most)
    covered = bytearray(len(text))
    for chunk in chunks:
        assert count(chunk.indexed_text) <= most
        own = text[chunk.start : chunk.end]
        assert own.strip()
        assert chunk.text == own or chunk.text.endswith("\n" + own)
        covered[chunk.start : chunk.end] = b"\x01" * (chunk.end - chunk.start)
    assert [c.start for c in chunks] == sorted(c.start for c in chunks)
    position = 0
    for block in source.blocks:
        lost = [
            letter
            for offset, letter in enumerate(block.text, position)
            if not covered[offset] and not letter.isspace()
        ]
        headings = {heading for chunk in chunks for heading in chunk.heading_path}
        assert not lost or (block.kind == "heading" and " ".join(block.text.split()) in headings)
        position += len(block.text) + 1


def test_sentences_of_both_languages() -> None:
    text = (
        "Tốc độ là 3.5 km/h. Ông Nguyễn V. An sống ở TP. HCM. Theo Điều 5. Tốc độ được giới hạn. "
        "Năm 2020. Sau đó thì sao? “Đúng vậy!” Dr. Smith, e.g. Anna, said no. He left… Then "
        "1.000.000 đồng. (Xem khoản 2.) • Hết\n2. Khoản hai. ở giữa câu."
    )
    assert [text[start:end] for start, end in sentences(text)] == [
        "Tốc độ là 3.5 km/h.",
        "Ông Nguyễn V. An sống ở TP. HCM.",
        "Theo Điều 5. Tốc độ được giới hạn.",
        "Năm 2020.",
        "Sau đó thì sao?",
        "“Đúng vậy!”",
        "Dr. Smith, e.g. Anna, said no.",
        "He left…",
        "Then 1.000.000 đồng.",
        "(Xem khoản 2.)",
        "• Hết",
        "2. Khoản hai. ở giữa câu.",
    ]


def test_sentences_without_spaces_between_them() -> None:
    text = "速度は五十キロです。左側通行です。"
    assert len(list(sentences(text))) == 2


def test_long_sentences_are_cut_at_words_and_long_words_inside() -> None:
    text = "một hai ba bốn năm " + "x" * 40
    cuts = [text[a:b] for a, b in pieces(text, (0, len(text)), len, 12)]
    assert cuts[:2] == ["một hai ba", "bốn năm"]
    assert "".join(cuts).replace(" ", "") == text.replace(" ", "")
    with pytest.raises(ValueError, match="too small"):
        list(pieces("ab", (0, 2), lambda text: 2, 1))


def test_no_room_for_text_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens=2"):
        split(prose("Text."), by_words, 2)


def test_small_neighbours_share_a_chunk_and_sections_do_not() -> None:
    source = document(
        Block("heading", "Sổ tay", level=1),
        Block("heading", "Nghỉ phép", level=2),
        Block("paragraph", "Mười bốn ngày.", page=3),
        Block("paragraph", "Báo trước ba ngày.", page=4),
        Block("heading", "Chi phí", level=2),
        Block("paragraph", "Taxi 20 USD."),
    )
    first, second = split(source, by_words, 100)
    assert first.text == "Mười bốn ngày.\nBáo trước ba ngày."
    assert first.heading_path == ("Sổ tay", "Nghỉ phép")
    assert first.page == 3
    assert second.heading_path == ("Sổ tay", "Chi phí")
    assert second.indexed_text == "Sổ tay › Chi phí\nTaxi 20 USD."


def test_chunks_of_a_long_section_are_even_and_end_with_sentences() -> None:
    sentence = "Người điều khiển phương tiện phải đi bên phải theo chiều đi của mình."
    chunks = split(prose(" ".join([sentence] * 21)), by_words, 100)
    sizes = [by_words(chunk.text) for chunk in chunks]
    assert all(chunk.text.endswith("mình.") for chunk in chunks)
    assert max(sizes) - min(sizes) <= by_words(sentence)


def test_paragraphs_stay_whole_where_they_can() -> None:
    paragraph = " ".join(["Một câu có đúng sáu từ."] * 8)
    chunks = split(prose(*[paragraph] * 4), by_words, 100)
    assert [chunk.text for chunk in chunks] == [paragraph] * 4


def test_tables_repeat_their_header_and_keep_rows_whole() -> None:
    rows = [Block("table_row", f"Xe {i} | {i} triệu", header="Loại xe | Mức") for i in range(30)]
    source = document(Block("paragraph", "Mức phạt như sau."), *rows, Block("paragraph", "Hết."))
    before, *tables, after = split(source, by_words, 60)
    assert (before.text, after.text) == ("Mức phạt như sau.", "Hết.")
    assert len(tables) > 2
    text = whole_text(source)
    for chunk in tables:
        header, _, body = chunk.text.partition("\n")
        assert header == "Loại xe | Mức"
        assert body == text[chunk.start : chunk.end]
        assert all(re.fullmatch(r"Xe \d+ \| \d+ triệu", row) for row in body.split("\n"))


def test_tables_with_different_headers_are_apart() -> None:
    source = document(
        Block("table_row", "1", header="a"),
        Block("table_row", "2", header="b"),
    )
    assert [chunk.text for chunk in split(source, by_words, 60)] == ["a\n1", "b\n2"]


def test_a_row_above_the_limit_is_cut_under_its_header() -> None:
    row = " | ".join(f"ô số {i}" for i in range(60))
    chunks = split(document(Block("table_row", row, header="Tên")), by_words, 50)
    assert len(chunks) > 3
    assert all(chunk.text.startswith("Tên\n") for chunk in chunks)


def test_a_curated_row_is_a_chunk_of_its_own() -> None:
    rows = [
        Block(
            "table_row",
            f"Hỏi {i}? | Đáp {i}.",
            header="Hỏi | Đáp",
            question=f"Hỏi {i}?",
            answer="x",
        )
        for i in range(3)
    ]
    source = document(Block("heading", "FAQ", level=1), *rows)
    chunks = split(source, by_words, 100)
    assert [(c.text, c.question) for c in chunks] == [
        (f"Hỏi {i}? | Đáp {i}.", f"Hỏi {i}?") for i in range(3)
    ]


def test_a_curated_row_above_the_limit_answers_once() -> None:
    answer = "Câu trả lời rất dài. " * 60
    block = Block("table_row", f"Hỏi? | {answer.strip()}", question="Hỏi?", answer=answer)
    chunks = split(document(block), by_words, 60)
    assert len(chunks) > 3
    assert [chunk.answer for chunk in chunks] == [answer] + [None] * (len(chunks) - 1)


def test_headings_without_text_are_not_lost() -> None:
    source = document(
        Block("heading", "Chương I", level=3),
        Block("heading", "Điều 1. Luật này có hiệu lực từ năm 2025.", level=6),
        Block("heading", "Điều 2. Phạm vi", level=6),
        Block("paragraph", "Cả nước."),
        Block("heading", "Hết", level=3),
    )
    chunks = split(source, by_words, 100)
    assert [(chunk.heading_path, chunk.text) for chunk in chunks] == [
        (("Chương I",), "Điều 1. Luật này có hiệu lực từ năm 2025."),
        (("Chương I", "Điều 2. Phạm vi"), "Cả nước."),
        ((), "Hết"),
    ]


def test_a_long_heading_path_is_shortened_from_the_outside() -> None:
    source = document(
        Block("heading", "Luật rất dài " * 5, level=1),
        Block("heading", "Chương hai", level=2),
        Block("paragraph", "Nội dung."),
    )
    chunks = split(source, by_words, 40)
    assert chunks[-1].heading_path == ("Chương hai",)
    assert chunks[0] == Chunk(chunks[0].text, 0, len(chunks[0].text))


def test_code_is_cut_between_lines_and_keeps_its_indent() -> None:
    code = "\n".join(f"    y = f({i})" for i in range(40))
    chunks = split(document(Block("code", code)), by_words, 60)
    assert len(chunks) > 2
    assert all(chunk.text.startswith("    y = ") for chunk in chunks)


def test_a_string_that_a_tokenizer_takes_for_one_word_is_cut() -> None:
    chunks = split(prose("x" * 5000), by_known_words, 50)
    assert max(len(chunk.text) for chunk in chunks) <= 500


def test_an_empty_document_has_no_chunks() -> None:
    assert split(Document(()), by_words, 50) == []


def test_counting_stays_linear() -> None:
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return by_words(text)

    for text in ("Một câu ngắn. " * 20_000, "từ " * 80_000, "x" * 200_000):
        counted = 0
        split(prose(text.strip()), count, 256)
        assert counted < 12 * len(text)
