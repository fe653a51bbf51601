"""Questions into what to search for."""

from __future__ import annotations

import pytest

from rag_backend.answering.searching import stripped


@pytest.mark.parametrize(
    ("question", "query"),
    [
        (
            "Xin chào, cho tôi hỏi mức lương tối thiểu vùng là bao nhiêu ạ?",
            "mức lương tối thiểu vùng",
        ),
        (
            "Hi! Could you please tell me how many days of annual leave I get?",
            "days of annual leave I get",
        ),
        ("What is the lunch allowance?", "lunch allowance"),
        ("Xe máy vượt đèn đỏ bị phạt bao nhiêu?", "Xe máy vượt đèn đỏ bị phạt"),
        ("Thủ tục đăng ký kết hôn như thế nào vậy ạ? Cảm ơn bạn", "Thủ tục đăng ký kết hôn"),
        ("em chào anh, em muốn hỏi về nghỉ thai sản ạ", "nghỉ thai sản"),
        ("Is the office in Hue open on Saturdays?", "office in Hue open on Saturdays"),
        ("Điều 5 quy định gì?", "Điều 5 quy định"),
        ("annual leave", "annual leave"),
        ("Whatever happens, leave", "Whatever happens, leave"),
        ("Hello", "Hello"),
        ("how", "how"),
        ("?", "?"),
        ("", ""),
    ],
)
def test_greetings_and_question_words_go(question: str, query: str) -> None:
    assert stripped(question) == query


def test_long_texts_are_left_alone() -> None:
    text = "how " + " ." * 10_000
    assert stripped(text) == text.strip()
