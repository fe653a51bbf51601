"""Follow-ups, and questions that name a part by its number, on documents of an office."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.backend import BackendProcess, ingest

RULES = """NỘI QUY LAO ĐỘNG

Điều 1. Giờ làm việc
Nhân viên làm việc từ 8 giờ đến 17 giờ, thứ Hai đến thứ Sáu.

Điều 2. Đi muộn
1. Đi muộn dưới 15 phút bị nhắc nhở.
2. Đi muộn quá 15 phút bị trừ 50.000 đồng.

Điều 3. Tạm ứng
Nhân viên được tạm ứng tối đa 10.000.000 đồng mỗi tháng.

Điều 4. Tiếp khách
Mức chi tiếp khách tối đa là 500.000 đồng mỗi lần.
"""
POLICY = """# Leave policy

## Annual leave
Employees get 14 days of annual leave a year.

## Sick leave
Sick leave is paid for 30 days a year with a doctor's note.

## Lunch
The lunch allowance is 45,000 VND a day.
"""
LUNCH = "How much is the lunch allowance?"
GUESTS = "Mức chi tiếp khách tối đa là bao nhiêu?"


@pytest.fixture(scope="module")
def office(library: BackendProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder: Path = tmp_path_factory.mktemp("office")
    (folder / "noi-quy.txt").write_text(RULES, "utf-8")
    (folder / "policy.md").write_text(POLICY, "utf-8")
    done = ingest(str(folder), "--store", "office", "--url", library.url, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    with library.client() as client:
        yield client


def answer(client: OpenAI, *questions: str) -> str:
    """The last question's answer, after the others as turns before it."""
    turns: list[Any] = []
    for question in questions[:-1]:
        turns += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "…"},
        ]
    turns.append({"role": "user", "content": questions[-1]})
    made = client.chat.completions.create(model="extractive@office", messages=turns)
    return made.choices[0].message.content or ""


@pytest.mark.parametrize(
    ("question", "expected", "absent"),
    [
        ("Điều 3 quy định gì?", "10.000.000", "500.000"),
        ("dieu 4 noi gi", "500.000", "10.000.000"),
        ("Điều 2 Nội quy lao động quy định gì?", "nhắc nhở", "8 giờ"),
        ("Khoản 2 Điều 2 quy định gì?", "trừ 50.000", "nhắc nhở"),
        ("Đi muộn 20 phút bị phạt thế nào?", "trừ 50.000", "tạm ứng"),
    ],
)
def test_a_part_named_by_its_number(
    office: OpenAI, question: str, expected: str, absent: str
) -> None:
    said = answer(office, question)
    assert expected in said
    assert absent not in said


# The library's local model says nonsense, so these also show that nonsense is not believed.
@pytest.mark.parametrize(
    ("first", "follow_up", "expected", "absent"),
    [
        (GUESTS, "Thế còn tạm ứng thì sao?", "10.000.000", "500.000"),
        ("Tạm ứng tối đa bao nhiêu?", "còn tiếp khách?", "500.000", "10.000.000"),
        ("How many days of annual leave?", "And sick leave?", "30 days", "14 days"),
        ("How many days of annual leave?", "What about the lunch allowance?", "45,000", "14"),
        (GUESTS, "What about the lunch allowance?", "45,000", "500.000"),
        (LUNCH, "And since when?", "45,000", "nothing about this"),
        (LUNCH, "and for interns?", "nothing about this", "45,000"),
    ],
)
def test_a_follow_up(
    office: OpenAI, first: str, follow_up: str, expected: str, absent: str
) -> None:
    said = answer(office, first, follow_up)
    assert expected in said
    assert absent not in said
