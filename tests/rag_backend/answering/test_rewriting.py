"""Follow-up questions."""

from __future__ import annotations

import pytest

from rag_backend.answering.rewriting import depends_on_history, own_subject, rewrite
from rag_backend.errors import UpstreamUnavailable
from rag_backend.llm.provider import LLMProvider, Message
from tests.rag_backend.answering.fakes import Scripted, Silent, assistant, user

FIRST = "How much is the fine for cars that run a red light?"
TALK: list[Message] = [user(FIRST), assistant("Much [1]."), user("And for motorbikes?")]


async def test_a_first_question_is_taken_as_it_is() -> None:
    local = Scripted("Never asked.")
    assert (await rewrite([user("And for motorbikes?")], local)).text == "And for motorbikes?"
    assert (
        await rewrite([user("Hello"), assistant("Hi!"), user("Leave?")], local)
    ).text == "Leave?"
    assert local.requests == []


async def test_so_is_a_question_that_stands_alone() -> None:
    local = Scripted("Never asked.")
    question = "What is the lunch allowance?"
    assert (await rewrite([*TALK, assistant("Little."), user(question)], local)).text == question
    assert local.requests == []


async def test_the_local_model_rewrites() -> None:
    local = Scripted('"How much is the fine for motorbikes?"\n')
    assert (await rewrite(TALK, local)).text == "How much is the fine for motorbikes?"
    assert f"user: {FIRST}" in local.prompt
    assert "Last question: And for motorbikes?" in local.prompt
    assert local.prompt.count("motorbikes") == 1


@pytest.mark.parametrize(
    "local",
    [
        None,
        Silent(),
        Scripted(UpstreamUnavailable("It is away.")),
        Scripted("How", finish=None),
        Scripted(""),
        Scripted("Sure! Here is the question:\nHow much?"),
        Scripted("fine " * 200),
        Scripted("How much is the fine", finish="length"),
        Scripted("Xyzzy plugh?"),
    ],
    ids=["absent", "slow", "failing", "cut", "empty", "chatty", "long", "endless", "lost"],
)
async def test_without_it_the_question_before_goes_along(local: LLMProvider | None) -> None:
    assert (await rewrite(TALK, local, patience=0.01)).text == f"{FIRST}\nAnd for motorbikes?"


async def test_the_last_question_that_stood_alone() -> None:
    talk = [*TALK, assistant("Less."), user("thanks!"), assistant("Sure."), user("And for trucks?")]
    assert (await rewrite(talk, None)).text == f"{FIRST}\nAnd for trucks?"


@pytest.mark.parametrize(
    ("question", "depends"),
    [
        ("And for motorbikes?", True),
        ("What about after five years?", True),
        ("How long is it?", True),
        ("Is that paid by the company?", True),
        ("Why?", True),
        ("Who signs these forms in the end?", True),
        ("What is the lunch allowance?", False),
        ("How many days do employees get after five years?", False),
        ("Còn xe máy thì sao?", True),
        ("Thế còn nhân viên thử việc có được hưởng không?", True),
        ("Mức phạt đó áp dụng từ khi nào vậy?", True),
        ("Quy định này áp dụng cho ai?", True),
        ("Xe máy?", True),
        ("xe may thi sao", True),
        ("Bao lâu phải thay nhớt?", False),
        ("Phụ cấp ăn trưa là bao nhiêu?", False),
        ("Con nuôi có được hưởng chế độ thai sản không?", False),
        ("Công ty này có bao nhiêu nhân viên chính thức?", False),
        ("con xe may thi bi phat bao nhieu", True),
        ("phu cap an trua cua nhan vien la bao nhieu", False),
    ],
)
def test_what_depends_on_the_conversation(question: str, depends: bool) -> None:
    assert depends_on_history(question) == depends


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("And sick leave?", "sick leave"),
        ("What about the lunch allowance?", "the lunch allowance"),
        ("thế còn kho lạnh thì sao?", "kho lạnh"),
        ("the con kho lanh thi sao", "kho lanh"),
        ("Còn xe máy thì sao?", "xe máy"),
        ("And since when?", ""),
        ("How long is it?", ""),
        ("Vậy thì sao?", ""),
    ],
)
def test_a_follow_up_may_name_a_subject_of_its_own(question: str, subject: str) -> None:
    assert own_subject(question) == subject
