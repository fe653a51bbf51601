"""Pieces of text never split a character."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from llm_offline.engine.text.detokenizing import Detokenizer
from llm_offline.loaded import LoadedModel

TEXTS = (
    "Tốc độ tối đa trong khu dân cư là năm mươi ki-lô-mét trên giờ.",
    "Nguyễn Thị Ánh Tuyết đã ký hợp đồng số 12/2024/HĐLĐ.",
    "👩‍👩‍👧‍👦 family, 🇻🇳 flag, 👍🏽 thumb, e\u0301 combining",
    "漢字かな交じり文、한국어도.",
    "tabs\tand\nnewlines\r\n  and   spaces ",
)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_add_up_and_hold_whole_characters(loaded: LoadedModel, text: str) -> None:
    detokenizer = Detokenizer(loaded.text.decode)
    tokens = loaded.text.encode(text, add_special_tokens=False)
    pieces = [detokenizer.push(token) for token in tokens] + [detokenizer.flush()]
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_special_tokens_are_not_shown(loaded: LoadedModel) -> None:
    detokenizer = Detokenizer(loaded.text.decode)
    tokens = loaded.text.encode("<|start_header_id|>xin chào<|eot_id|>")
    assert "".join([detokenizer.push(token) for token in tokens]) == "xin chào"


def test_the_prompt_is_not_shown(loaded: LoadedModel) -> None:
    prompt = loaded.text.encode("What is the speed limit?")
    detokenizer = Detokenizer(loaded.text.decode, prompt)
    tokens = loaded.text.encode(" Fifty.", add_special_tokens=False)
    assert "".join([detokenizer.push(token) for token in tokens]) == " Fifty."


def test_a_cut_character_is_left_out(loaded: LoadedModel) -> None:
    detokenizer = Detokenizer(loaded.text.decode)
    tokens = loaded.text.encode("ok 😀", add_special_tokens=False)
    pieces = [detokenizer.push(token) for token in tokens[:-1]] + [detokenizer.flush()]
    assert "".join(pieces) == "ok "


def test_what_is_no_text_does_not_hold_the_stream_up(loaded: LoadedModel) -> None:
    detokenizer = Detokenizer(loaded.text.decode)
    half = loaded.text.encode("😀", add_special_tokens=False)[0]
    assert any(detokenizer.push(half) for _ in range(40))


def test_a_decoder_that_joins_words_with_spaces() -> None:
    # As SentencePiece's: the space belongs to the place between two tokens.
    words = ["xin", "chào", "bạn"]

    def decode(tokens: Sequence[int]) -> str:
        return " ".join(words[token] for token in tokens)

    detokenizer = Detokenizer(decode, prompt=[0])
    assert [detokenizer.push(1), detokenizer.push(2)] == [" chào", " bạn"]


def test_random_tokens_add_up_to_their_decoding(loaded: LoadedModel) -> None:
    rng = random.Random(0)
    for _ in range(50):
        tokens = [rng.randrange(262, 590) for _ in range(60)]
        detokenizer = Detokenizer(loaded.text.decode)
        shown = "".join([detokenizer.push(t) for t in tokens] + [detokenizer.flush()])
        assert shown == loaded.text.decode(tokens).rstrip("\N{REPLACEMENT CHARACTER}")
