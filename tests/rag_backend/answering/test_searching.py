"""Questions into what to search for."""

from __future__ import annotations

import pytest

from rag_backend.answering.searching import search_query, stripped
from rag_backend.errors import UpstreamUnavailable
from rag_backend.llm.provider import LLMProvider
from tests.rag_backend.answering.fakes import Scripted, Silent


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


QUESTION = "Could you tell me what the lunch allowance is?"


async def test_the_local_model_writes_the_query() -> None:
    local = Scripted('"lunch allowance"\n')
    assert await search_query(QUESTION, local) == "lunch allowance"
    assert f"Question: {QUESTION}" in local.prompt


@pytest.mark.parametrize(
    "local",
    [
        None,
        Silent(),
        Scripted(UpstreamUnavailable("It is away.")),
        Scripted(""),
        Scripted("Sure! Here it is:\nlunch allowance"),
        Scripted("something else"),
        Scripted("lunch " * 200),
        Scripted("lunch", finish="length"),
    ],
    ids=str,
)
async def test_without_it_the_question_is_cut(local: LLMProvider | None) -> None:
    assert await search_query(QUESTION, local, patience=0.05) == "lunch allowance is"
