"""Languages and kinds of utterance."""

from __future__ import annotations

import pytest

from rag_backend.answering.language import is_small_talk, says_unknown
from rag_backend.text import language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Nghỉ phép bao nhiêu ngày?", "vi"),
        ("nghi phep bao nhieu ngay", "vi"),
        ("Xin chào", "vi"),
        ("How many days?", "en"),
        ("Où est la gare?", "en"),
        ("", "en"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("text", "is_talk"),
    [
        ("Xin chào!", True),
        ("Chào bạn", True),
        ("HELLO", True),
        ("good morning everyone", True),
        ("Cảm ơn", True),
        ("thank you so much", True),
        ("Hello, how many days of leave?", False),
        ("Chào mừng khách thế nào?", False),
        ("hi-vis vests", False),
        ("", False),
    ],
)
def test_small_talk(text: str, is_talk: bool) -> None:
    assert is_small_talk(text) == is_talk


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("I don't know.", True),
        ("The sources do not say.", True),
        ("No relevant information was found.", True),
        ("Tôi không tìm thấy.", True),
        ("Hiện các tài liệu được cung cấp không có thông tin này.", True),
        ("Documents that do not include a signature are refused.", False),
        ("Tài liệu không có chữ ký sẽ bị trả lại.", False),
        ("Nếu không tìm thấy thẻ, hãy báo ngay.", False),
        ("No smoking.", False),
    ],
)
def test_not_knowing(text: str, unknown: bool) -> None:
    assert says_unknown(text) == unknown
