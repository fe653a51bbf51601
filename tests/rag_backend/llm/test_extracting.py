"""Which sentences answer a question."""

from __future__ import annotations

import pytest

from rag_backend.llm.extracting import (
    MOST_CHARACTERS,
    MOST_SENTENCES,
    first_sentence,
    pick,
)
from rag_backend.llm.provider import Evidence, Grounding
from rag_backend.text import language_of

LEAVE = Evidence(
    1,
    "handbook.md › Annual leave",
    "Annual leave\nFull-time employees have 12 working days a year. One more day is added for "
    "every five years with the company. Leave that is not used by 31 March expires.",
    0.9,
)
SICK = Evidence(
    2,
    "handbook.md › Sick leave",
    "Sick leave\nTell your manager before 9:00 on the first day. A doctor's note is needed from "
    "the third day on.",
    0.6,
)
FINES = Evidence(
    3,
    "muc-phat.xlsx",
    "Lỗi vi phạm | Xe máy | Ô tô\n"
    "Vượt đèn đỏ | 800.000 - 1.000.000 đồng | 4.000.000 - 6.000.000 đồng\n"
    "Không đội mũ bảo hiểm | 400.000 - 600.000 đồng | ",
    0.8,
)
SPEED = Evidence(
    4,
    "so-tay.pdf, p. 2 › Điều 5. Tốc độ",
    "Điều 5. Tốc độ tối đa\nTrong khu vực đông dân cư, tốc độ tối đa của xe máy là 50 km/h. Ngoài "
    "khu vực đông dân cư, tốc độ tối đa là 60 km/h.\nTP. HCM có 3.5 triệu xe máy.",
    0.7,
)
LIST = Evidence(
    5,
    "onboarding.pptx",
    "Bring these documents on your first day:\n- Identity card\n- Two photos\nLunch is free.",
    0.5,
)
FAQ = Evidence(
    6,
    "faq.md",
    "Can I work from home?\nYes, up to two days a week.\nWhere do I park?\nBehind building B.",
    0.5,
)
ALL = (LEAVE, SICK, FINES, SPEED, LIST, FAQ)

RED_LIGHT = (
    "Lỗi vi phạm: Vượt đèn đỏ; Xe máy: 800.000 - 1.000.000 đồng; Ô tô: 4.000.000 - 6.000.000 đồng"
)
HELMET = "Lỗi vi phạm: Không đội mũ bảo hiểm; Xe máy: 400.000 - 600.000 đồng"
SLOW = "Trong khu vực đông dân cư, tốc độ tối đa của xe máy là 50 km/h."

QUESTIONS = [
    ("How many days of annual leave do I get?", 1, "Full-time employees have 12 working days"),
    ("When does unused leave expire?", 1, "Leave that is not used by 31 March expires."),
    ("From which day do I need a doctor's note?", 2, "A doctor's note is needed from the third"),
    ("Vượt đèn đỏ bằng xe máy bị phạt bao nhiêu?", 3, RED_LIGHT),
    ("vuot den do bang xe may bi phat bao nhieu", 3, RED_LIGHT),
    ("Không đội mũ bảo hiểm bị phạt bao nhiêu?", 3, HELMET),
    ("Tốc độ tối đa của xe máy trong khu đông dân cư?", 4, SLOW),
    ("toc do toi da cua xe may trong khu dong dan cu", 4, SLOW),
    ("Có bao nhiêu triệu xe ở TP. HCM?", 4, "TP. HCM có 3.5 triệu xe máy."),
    ("Which documents do I bring?", 5, "Bring these documents on your first day: Identity card;"),
    ("Can I work from home?", 6, "Yes, up to two days a week."),
    ("Where can I park?", 6, "Behind building B."),
]


@pytest.mark.parametrize(("question", "number", "answer"), QUESTIONS)
def test_finds_the_answer(question: str, number: int, answer: str) -> None:
    picks = pick(Grounding(question, language_of(question), ALL))
    assert any(p.number == number and p.text.startswith(answer) for p in picks), picks
    assert len(picks) <= MOST_SENTENCES
    assert sum(len(p.text) for p in picks) <= MOST_CHARACTERS


def test_the_stores_weights_decide() -> None:
    passage = Evidence(1, "a", "The red car is fast. The blue house is old.", 1.0)
    for heavy, wanted in (("car", "The red car is fast."), ("hous", "The blue house is old.")):
        terms = {"car": 0.1, "hous": 0.1} | {heavy: 9.0}
        picks = pick(Grounding("car or house?", "en", (passage,), terms))
        assert picks[0].text == wanted


def test_diacritics_decide_where_they_are_typed() -> None:
    passage = Evidence(1, "a", "Bạn được nghỉ lễ. Cửa hàng bán vé tháng.", 1.0)
    (only,) = pick(Grounding("bán vé ở đâu", "vi", (passage,), {"ban": 1.0, "ve": 1.0}))
    assert only.text == "Cửa hàng bán vé tháng."


def test_the_same_sentence_is_not_said_twice() -> None:
    twin = Evidence(7, "copy.md", LEAVE.text, 0.89)
    picks = pick(Grounding("How many days of annual leave?", "en", (LEAVE, twin)))
    assert len({p.text for p in picks}) == len(picks)


def test_the_better_passage_wins_where_the_words_are_the_same() -> None:
    low = Evidence(1, "a", "The fee is 10 dong.", 0.1)
    high = Evidence(2, "b", "The fee is 20 dong.", 0.9)
    assert pick(Grounding("What is the fee?", "en", (high, low)))[0].number == 2
    assert pick(Grounding("What is the fee?", "en", (low, high)))[0].number == 2


def test_a_long_sentence_is_cut_between_words() -> None:
    passage = Evidence(1, "a", "fee " + "and so on " * 200, 1.0)
    (only,) = pick(Grounding("fee", "en", (passage,)))
    assert len(only.text) <= MOST_CHARACTERS
    assert only.text.endswith(("and…", "so…", "on…"))


def test_of_a_tables_rows_the_one_that_was_asked_for() -> None:
    texts = [p.text for p in pick(Grounding(QUESTIONS[5][0], "vi", (FINES,)))]
    assert texts == [HELMET]


def test_coverage_counts_the_title_and_what_announces_the_sentence() -> None:
    (only,) = pick(Grounding("Can I work from home?", "en", (FAQ,)))
    assert only.coverage > 0.9
    (first, *_) = pick(Grounding("annual leave in the handbook", "en", (LEAVE,)))
    assert first.coverage > 0.5


def test_no_common_word_no_pick() -> None:
    assert pick(Grounding("zyx wvu", "en", ALL)) == []
    assert pick(Grounding("", "en", ALL)) == []
    assert pick(Grounding("???", "en", ALL, {})) == []


def test_how_the_best_passage_begins() -> None:
    beginning = first_sentence((LEAVE, SICK))
    assert beginning is not None
    assert beginning.text == "Full-time employees have 12 working days a year."
    assert first_sentence(()) is None


LEASE = Evidence(
    1, "lease.txt", "The rent is 900 euros. The landlord repairs the roof. Pets are allowed.", 1.0
)


def test_each_of_several_questions_is_answered() -> None:
    terms = {"month": 3.0, "rent": 3.0, "pet": 3.0, "allow": 3.0}
    asked = Grounding("What is the monthly rent, and are pets allowed?", "en", (LEASE,), terms)
    picks = pick(asked)
    assert [p.text for p in picks] == ["The rent is 900 euros.", "Pets are allowed."]
    assert all(p.coverage >= 0.5 for p in picks)


def test_of_several_questions_one_that_nothing_answers_adds_nothing() -> None:
    terms = {"rent": 3.0, "insur": 3.0, "cost": 3.0, "flood": 3.0}
    asked = "How much is the rent, and what does insurance against flood cost?"
    assert [p.text for p in pick(Grounding(asked, "en", (LEASE,), terms))] == [
        "The rent is 900 euros."
    ]


def test_a_part_that_names_no_subject_takes_the_questions() -> None:
    text = (
        "Overtime is paid at 150 percent. Overtime is approved by Lan. Trips are approved by Mai."
    )
    terms = {"overtim": 3.0, "paid": 3.0, "approv": 3.0}
    asked = "How is overtime paid, and who approves it?"
    picks = pick(Grounding(asked, "en", (Evidence(1, "a", text, 1.0),), terms))
    assert [p.text for p in picks] == [
        "Overtime is paid at 150 percent.",
        "Overtime is approved by Lan.",
    ]


def row(number: int, question: str, answer: str) -> Evidence:
    return Evidence(number, "faq.csv", f"{question} | {answer}", 1.0 / number, question, answer)


def test_a_row_of_questions_and_answers_gives_its_answer_whole() -> None:
    card = row(1, "Xin cấp lại thẻ gửi xe thế nào?", "Điền mẫu G-12.\nThẻ có sau 2 ngày.")
    wifi = row(2, "Mật khẩu wifi là gì?", "Hỏi lễ tân")
    (only,) = pick(Grounding("cap lai the gui xe", "vi", (card, wifi)))
    assert only.text == "Điền mẫu G-12. Thẻ có sau 2 ngày."
    (short,) = pick(Grounding("mat khau wifi", "vi", (card, wifi)))
    assert short.text == "Hỏi lễ tân"


def test_two_rows_are_told_apart_by_their_questions() -> None:
    rows = row(1, "Phí gửi xe máy?", "50.000 đồng."), row(2, "Phí gửi xe đạp?", "9.000 đồng.")
    assert [p.text for p in pick(Grounding("Phí gửi xe là bao nhiêu?", "vi", rows))] == [
        "Phí gửi xe máy? 50.000 đồng.",
        "Phí gửi xe đạp? 9.000 đồng.",
    ]
