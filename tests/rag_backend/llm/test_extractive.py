"""The provider without a model: what it says, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from rag_backend.errors import UnsupportedFeature
from rag_backend.llm.complete import complete
from rag_backend.llm.extractive import Extractive
from rag_backend.llm.provider import ChatRequest, Evidence, Grounding
from tests.rag_backend.llm.support import collect, text_of

PASSAGES = (
    Evidence(1, "a.md", "Annual leave is 14 days a year. It is approved by your manager.", 0.9),
    Evidence(2, "b.md", "Unused leave expires on 31 March.", 0.5),
)


def _request(question: str, language: str = "en", **options: Any) -> ChatRequest:
    grounding = Grounding(question, language, PASSAGES)
    return ChatRequest(({"role": "user", "content": question},), options, grounding=grounding)


def _plain(text: str) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},))


async def _says(request: ChatRequest, *, stands_in: bool = False) -> str:
    return text_of(await collect(Extractive("extractive", stands_in=stands_in), request))


async def test_sentences_carry_their_markers() -> None:
    assert await _says(_request("How many days of annual leave?")) == (
        "Annual leave is 14 days a year. [1]"
    )


async def test_the_nearest_passage_is_called_that() -> None:
    text = await _says(_request("Tôi được mấy ngày?", "vi"))
    assert text == (
        "Không có câu nào trong tài liệu trả lời trực tiếp. Câu gần nhất: "
        "Annual leave is 14 days a year. [1]"
    )


async def test_a_weak_match_is_not_shown_as_an_answer() -> None:
    asked = "Who may approve the purchase of forklift spare parts?"
    terms = {"approv": 2.0, "purchas": 3.0, "forklift": 4.0, "spare": 4.0, "part": 3.0}
    grounding = Grounding(asked, "en", PASSAGES, terms)
    text = await _says(ChatRequest(_plain(asked).messages, grounding=grounding))
    assert text == (
        "No sentence in the documents answers this directly. The nearest one: "
        "It is approved by your manager. [1]"
    )


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("Xin chào", "Xin chào!"),
        ("xin chao ban", "Xin chào!"),
        ("Hello there!", "Hello!"),
        ("Cảm ơn bạn nhiều", "Không có gì!"),
        ("thanks a lot", "You are welcome!"),
        ("What is the capital of France?", "There is no document here"),
        ("Thủ đô của Pháp là gì?", "Ở đây chưa có tài liệu"),
        ("thu do cua nuoc phap la gi cho toi biet", "Ở đây chưa có tài liệu"),
    ],
)
async def test_without_documents(said: str, answer: str) -> None:
    text = await _says(_plain(said))
    assert text.startswith(answer)
    empty = Grounding(said, "en", ())
    assert await _says(ChatRequest(_plain(said).messages, grounding=empty))


async def test_it_says_how_to_switch_a_model_on() -> None:
    text = await _says(_plain("What is the capital of France?"))
    assert "LOCAL_LLM_API_URL" in text
    assert "OPENAI_API_KEY" in text


async def test_standing_in_it_does_not_say_that_no_model_is_configured() -> None:
    for said, words in (
        ("Who are you?", "No language model answered"),
        ("Bạn là ai?", "nào trả lời"),
    ):
        assert words in await _says(_plain(said), stands_in=True)


async def test_the_token_limit_and_stop_strings() -> None:
    short = await complete(
        Extractive("x"), _request("How many days of annual leave?", max_tokens=5)
    )
    assert short["choices"][0]["message"]["content"] == "Annual leave"
    assert short["choices"][0]["finish_reason"] == "length"

    for stop in (" 14", ["never", " 14"]):
        text = await _says(_request("How many days of annual leave?", stop=stop))
        assert text == "Annual leave is"


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
    ],
)
async def test_what_needs_a_model_is_refused(parameter: str, value: object) -> None:
    with pytest.raises(UnsupportedFeature) as raised:
        await collect(Extractive("x"), _request("leave?", "en", **{parameter: value}))
    assert raised.value.param == parameter


async def test_what_changes_nothing_is_accepted() -> None:
    options: dict[str, Any] = {"temperature": 2, "seed": 1, "response_format": {"type": "text"}}
    assert "14 days" in await _says(_request("How many days of annual leave?", **options))
