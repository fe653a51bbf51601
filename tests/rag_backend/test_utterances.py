"""What stands around a question, and several questions in one."""

from __future__ import annotations

import pytest

from rag_backend.utterances import is_greeting, is_thanks, parts, without_courtesies

CONTENT = [
    "Hoi dong quan tri hop khi nao?",
    "Lai suat ngan hang cho vay?",
    "Hop dong vay",
    "phi kham benh vien nhi",
    "Thua ke theo phap luat chia the nao?",
    "cho hoi vien vay bao nhieu",
    "gia ve hang a",
    "Da giay bao hanh may thang?",
    "Ai đại diện cho hộ?",
    "Dạ dày đau thì nghỉ mấy ngày?",
    "Hỏi thăm người ốm được chi bao nhiêu?",
    "Can you give notice by email?",
    "Hi sinh trong khi làm nhiệm vụ được hưởng gì?",
]


@pytest.mark.parametrize(
    ("said", "question"),
    [
        ("Anh chị cho em hỏi mượn sách được mấy ngày ạ?", "mượn sách được mấy ngày"),
        ("cho minh hoi thu vien dong cua ngay nao vay a", "thu vien dong cua ngay nao"),
        ("Dạ cho em hỏi mật khẩu wifi là gì ạ?", "mật khẩu wifi là gì"),
        ("Em chào anh chị, em muốn hỏi về phép năm ạ, em cảm ơn", "phép năm"),
        ("Mọi người ơi cho mình hỏi chút, wifi là gì vậy ạ?", "wifi là gì"),
        ("Làm ơn cho tôi biết giờ mở cửa", "giờ mở cửa"),
        ("Có ai biết căng tin mở lúc nào không?", "căng tin mở lúc nào không?"),
        ("Could you please tell me when it opens?", "when it opens?"),
        ("Hi, I was wondering whether a note is needed?", "a note is needed?"),
        ("Can you tell me please who repairs the roof?", "who repairs the roof?"),
        ("May I ask how long it takes? Thanks!", "how long it takes?"),
        # Nothing of these is a courtesy.
        ("Chào mừng khách thế nào?", "Chào mừng khách thế nào?"),
        ("Hỏi đáp nhân sự ở đâu?", "Hỏi đáp nhân sự ở đâu?"),
        ("Xin nghỉ phép thế nào?", "Xin nghỉ phép thế nào?"),
        ("Không biết lái xe có được nhận không?", "Không biết lái xe có được nhận không?"),
        ("Ai duyệt đơn?", "Ai duyệt đơn?"),
        *((same, same) for same in CONTENT),
        ("What is the rent?", "What is the rent?"),
        ("Hello!", "Hello!"),
        ("", ""),
    ],
)
def test_courtesies_go(said: str, question: str) -> None:
    assert without_courtesies(said) == question


def test_a_long_text_keeps_its_courtesies() -> None:
    letter = "Could you please tell me " + "more about it " * 40
    assert without_courtesies(letter) == letter


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (
            "How many days of annual leave, and who approves it?",
            ["How many days of annual leave", "who approves it?"],
        ),
        (
            "Lệ phí bao nhiêu và thẻ có giá trị bao lâu?",
            ["Lệ phí bao nhiêu", "thẻ có giá trị bao lâu?"],
        ),
        (
            "le phi bao nhieu va the co gia tri bao lau",
            ["le phi bao nhieu", "the co gia tri bao lau"],
        ),
        ("Where is the key? Who has it?", ["Where is the key", "Who has it?"]),
        (
            "Is there parking and can I charge my car?",
            ["Is there parking", "can I charge my car?"],
        ),
        ("Who repairs doors, windows and locks?", ["Who repairs doors, windows and locks?"]),
        ("Ai và khi nào duyệt đơn?", ["Ai và khi nào duyệt đơn?"]),
        ("How and when do I pay?", ["How and when do I pay?"]),
        ("What? " * 9, ["What? " * 9]),
        ("Summarise this" + " " * 100_000 + "x?", ["Summarise this" + " " * 100_000 + "x?"]),
        ("", [""]),
    ],
)
def test_several_questions_in_one(asked: str, found: list[str]) -> None:
    assert parts(asked) == found


@pytest.mark.parametrize(
    "said", ["Xin chào!", "chào mọi người", "hi everyone", "Good morning, all", "hello ban"]
)
def test_greetings(said: str) -> None:
    assert is_greeting(said)
    assert not is_thanks(said)


@pytest.mark.parametrize("said", ["Cảm ơn anh chị nhiều", "thanks a lot", "Thank you very much!"])
def test_thanks(said: str) -> None:
    assert is_thanks(said)
    assert not is_greeting(said)
