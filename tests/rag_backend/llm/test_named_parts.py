"""The article, chapter or clause that a question names."""

from __future__ import annotations

import pytest

from rag_backend.llm.extracting import MOST_CHARACTERS
from rag_backend.llm.named_parts import asks_for_the_whole, named_clause, named_part
from rag_backend.llm.provider import Evidence, Grounding
from rag_backend.text import language_of

FINES = Evidence(1, "luat.txt › Điều 7. Mức phạt", "1. Nhắc nhở.\n2. Phạt 5 triệu đồng.", 1.0)


def asked(question: str, *passages: Evidence) -> Grounding:
    return Grounding(question, language_of(question), passages or (FINES,))


def test_a_part_named_by_its_number() -> None:
    assert named_part(asked("dieu 7 noi gi")) == "1. Nhắc nhở.\n2. Phạt 5 triệu đồng. [1]"
    assert named_part(asked("What does Article 7 say?")).startswith("1. Nhắc nhở.")
    assert named_part(asked("Điều 8 quy định gì?")) == ""
    assert named_part(asked("Phạt bao nhiêu?")) == ""


def test_several_articles_are_shown_by_their_numbers() -> None:
    ten = Evidence(1, "a.md › Chương II › Điều 10. Sách", "Năm cuốn.", 1.0)
    nine = Evidence(2, "a.md › Chương II › Điều 9. Thẻ", "Mười lăm tuổi.", 0.9)
    other = Evidence(3, "b.md › Chương I › Điều 9. Phạt", "Không phạt.", 0.8)
    both = "Mười lăm tuổi. [2]\nNăm cuốn. [1]"
    assert named_part(asked("Điều 10 và Điều 9 quy định gì?", ten, nine, other)) == both
    assert named_part(asked("Điều 9 và Điều 10 Chương 2", ten, other, nine)) == both
    assert named_part(asked("Articles: what do Article 10 and Article 11 say?", ten)) == (
        "Năm cuốn. [1]"
    )


def test_of_several_chapters_the_articles_of_each() -> None:
    two = Evidence(1, "a.md › Chương II › Điều 3. Thẻ", "Mười lăm tuổi.", 1.0)
    one = Evidence(2, "a.md › Chương I › Điều 1. Sách", "Năm cuốn.", 0.9)
    more = Evidence(3, "a.md › Chương I › Điều 2. Báo", "Không mượn.", 0.8)
    said = named_part(asked("Chương I và Chương II gồm những gì?", two, one, more))
    assert said == "Điều 1. Sách [2]\nĐiều 2. Báo [3]\nMười lăm tuổi. [1]"


def test_an_article_with_headings_beside_one_without() -> None:
    nine = Evidence(1, "a.md › Điều 9 › Khoản 1", "Một.", 1.0)
    more = Evidence(2, "a.md › Điều 9 › Khoản 2", "Hai.", 0.9)
    ten = Evidence(3, "a.md › Điều 10", "Mười.", 0.8)
    said = named_part(asked("Điều 9 và Điều 10", nine, more, ten))
    assert said == "Khoản 1 [1]\nKhoản 2 [2]\nMười. [3]"


def test_another_documents_article_of_a_chapter_named_beside_another_is_not_it() -> None:
    five = Evidence(1, "a.md › Chương I › Điều 5", "Năm.", 1.0)
    other = Evidence(2, "b.md › Chương I › Điều 6", "Không phải.", 0.9)
    six = Evidence(3, "a.md › Chương II › Điều 6", "Sáu.", 0.8)
    said = named_part(asked("Điều 5 Chương I và Điều 6 Chương II", five, other, six))
    assert said == "Năm. [1]\nSáu. [3]"


def test_hundreds_of_names_take_no_longer_than_reading_them() -> None:
    """All that they could make together would be millions."""
    kinds = "Phần", "Chương", "Mục", "Điều"
    question = " ".join(f"{kind} {n}" for kind in kinds for n in range(1, 200))
    deep = Evidence(1, "a › Phần 1 › Chương 1 › Mục 1 › Điều 1", "Đây.", 1.0)
    assert named_part(asked(question, deep)) == "Đây. [1]"


def test_of_a_chapter_its_articles_in_order() -> None:
    three = Evidence(1, "a.md › Chương II › Điều 10. Sách", "1. Năm cuốn.", 1.0)
    two = Evidence(2, "a.md › Chương II › Điều 9. Thẻ", "1. Mười lăm tuổi.", 0.9)
    said = named_part(asked("Chương 2 gồm những gì?", three, two))
    assert said == "Điều 9. Thẻ [2]\nĐiều 10. Sách [1]"


def test_a_clause_named_by_its_number() -> None:
    assert named_clause(asked("Khoản 2 Điều 7 quy định gì?")) == "2. Phạt 5 triệu đồng. [1]"
    assert named_clause(asked("Clause 2 of Article 7: how much?")) == "2. Phạt 5 triệu đồng. [1]"
    assert named_clause(asked("Khoản 3 Điều 7 quy định gì?")) == ""
    assert named_clause(asked("Điều 7 quy định gì?")) == ""


def test_another_articles_clause_is_not_it() -> None:
    citing = Evidence(1, "a › Điều 9. Phạt", "1. Vi phạm Điều 3.\n2. Phạt tiền.", 1.0)
    assert named_clause(asked("Khoản 2 Điều 3", citing)) == ""


def test_of_a_long_clause_what_answers() -> None:
    filling = "Việc này do phòng hành chính theo dõi và báo cáo. " * 20
    long = Evidence(1, "a › Điều 1", f"1. {filling}\nTrả sách muộn nộp 2.000 đồng.\n2. Khác.", 1.0)
    said = named_clause(asked("Theo khoản 1 Điều 1, trả sách muộn nộp bao nhiêu?", long))
    assert "Trả sách muộn nộp 2.000 đồng. [1]" in said
    assert len(said) <= MOST_CHARACTERS + 20


@pytest.mark.parametrize(
    ("question", "whole"),
    [
        ("Điều 7 quy định gì?", True),
        ("What does Section 3.2 say?", True),
        ("Điều 7 phạt bao nhiêu?", False),
        ("Quy định gì?", False),
        ("Khoản 2 Điều 7 quy định gì?", True),
        ("điểm a khoản 2 điều 7", True),
        ("Theo khoản 2 Điều 7, phạt bao nhiêu?", False),
    ],
)
def test_whether_the_whole_part_is_asked_for(question: str, whole: bool) -> None:
    assert asks_for_the_whole(question) == whole
