"""What makes a question look hard, in both languages, and how well that sorts labelled ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rag_backend.llm.provider import ChatRequest, Evidence, Grounding
from rag_backend.llm.scoring import Scored, asked, prompt_tokens, score
from rag_backend.text import query_terms

LABELLED = Path(__file__).with_name("hardness.tsv")


class Question(NamedTuple):
    """`kind`: `spoken` as people ask; `against-length`: long easy ones and short hard ones."""

    kind: str
    language: str
    label: str
    text: str


def questions() -> list[Question]:
    lines = LABELLED.read_text("utf-8").splitlines()
    return [Question(*line.split("\t")) for line in lines]


def judged(question: str, *passages: str, context: int | None = None, **options: Any) -> Scored:
    terms = dict.fromkeys(query_terms("leave overtime bonus"), 1.0)
    evidence = tuple(Evidence(n, "doc", text, 1.0) for n, text in enumerate(passages, 1))
    grounding = Grounding(question, "en", evidence, terms if passages else {})
    messages = ({"role": "user", "content": question},)
    return score(ChatRequest(messages, options, grounding=grounding), context)


def auc(pairs: Iterable[tuple[float, str]]) -> float:
    """How often a hard question scores above an easy one."""
    listed = list(pairs)
    easy = [value for value, label in listed if label == "easy"]
    hard = [value for value, label in listed if label == "hard"]
    won = sum((h > e) + 0.5 * (h == e) for h in hard for e in easy)
    return won / (len(easy) * len(hard))


@pytest.mark.parametrize("language", ["en", "vi"])
def test_sorts_labelled_questions_better_than_their_length(language: str) -> None:
    listed = [q for q in questions() if q.language == language]
    ours = auc((judged(q.text).score, q.label) for q in listed)
    by_length = auc((float(len(q.text)), q.label) for q in listed)
    assert ours > 0.8
    assert ours > by_length + 0.15
    spoken = [q for q in listed if q.kind == "spoken"]
    assert auc((judged(q.text).score, q.label) for q in spoken) > 0.9


CUES = [
    ("So sánh hai gói bảo hiểm.", "compare"),
    ("so sanh hai goi bao hiem", "compare"),
    ("What is the difference between A and B?", "compare"),
    ("Tại sao phải ký lại?", "why"),
    ("tai sao phai ky lai", "why"),
    ("Why must it be signed again?", "why"),
    ("Giải thích điều 5.", "why"),
    ("How do I file a claim?", "how"),
    ("Quy trình khiếu nại ra sao?", "how"),
    ("Phân tích tác động của luật mới.", "analyse"),
    ("Summarise the contract.", "analyse"),
    ("Nếu nghỉ việc thì sao?", "conditions"),
    ("What happens if I resign?", "conditions"),
    ("Liệt kê các trường hợp được miễn.", "enumerate"),
    ("Tính tổng tiền phạt.", "calculate"),
    ("Calculate the total.", "calculate"),
    ("Is 12 of 30 more than 5 of 14?", "numbers"),
    ("What is it? Who pays? Since when?", "several questions"),
    ("何ですか？誰が払いますか？", "several questions"),
    ("Who pays and when is it due?", "several questions"),
    ("What does `x => f(x);` do?", "code"),
]


@pytest.mark.parametrize(("question", "reason"), CUES)
def test_cues(question: str, reason: str) -> None:
    found = judged(question)
    assert reason in found.reasons
    assert found.score > judged("Địa chỉ văn phòng ở đâu?").score


@pytest.mark.parametrize(
    "question",
    [
        "How many days of leave do I get?",
        "How long is the warranty?",
        "Thế nào là xe ưu tiên?",
        "Thủ đô của Việt Nam là gì?",
        "Bao nhiêu ngày phép?",
        "Where is Sumville?",
    ],
)
def test_look_ups_carry_no_cue(question: str) -> None:
    assert judged(question).reasons == ("short",)


def test_every_part_only_adds() -> None:
    plain = judged("Who pays for the taxi?").score
    both = judged("Why and how do the costs differ, and who pays for 2 of 3 taxis?").score
    assert 0 <= plain < both < 1


def test_length_counts_in_any_script() -> None:
    short, long = judged("年次有給休暇は何日ですか"), judged("年次有給休暇は何日ですか" * 12)
    assert long.score > short.score
    assert "long" in long.reasons
    assert judged("").score == 0


def test_passages_that_are_needed() -> None:
    same = judged("Leave?", "leave and overtime and bonus", "leave", "overtime")
    each = judged("Leave?", "leave", "overtime", "bonus")
    assert same.reasons == ("short", "one passage")
    assert each.reasons == ("several passages",)
    assert each.score > same.score
    assert judged("Leave?", "nothing in common").reasons == ("short", "one passage")


def test_a_prompt_that_fills_the_context() -> None:
    question = "word " * 300
    assert "long prompt" in judged(question, context=600).reasons
    assert "long prompt" not in judged(question, context=6000).reasons


def test_the_last_words_of_the_user_count() -> None:
    said = ("user", "Why?"), ("assistant", "Because."), ("user", "Who?"), ("tool", "why why")
    request = ChatRequest(tuple({"role": role, "content": text} for role, text in said))
    assert asked(request) == "Who?"
    assert asked(ChatRequest(({"role": "system", "content": "why"},))) == ""


def test_prompt_tokens() -> None:
    messages = ({"role": "user", "content": "a" * 30}, {"role": "assistant", "content": None})
    assert prompt_tokens(ChatRequest(messages)) == 10
    assert prompt_tokens(ChatRequest(messages, {"tools": [{"type": "function"}]})) > 10


def test_reasons_are_few_and_say_nothing_of_the_user() -> None:
    vocabulary = {reason for _, reason in CUES}
    vocabulary |= {"short", "plain", "long", "one passage", "several passages", "long prompt"}
    for question in questions():
        assert set(judged(question.text).reasons) <= vocabulary
