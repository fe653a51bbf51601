"""Clauses and points by their number."""

from __future__ import annotations

import pytest

from rag_backend.clauses import Clause, clause_in, clause_of, has_clauses

ARTICLE = """1. Thẻ cấp cho người từ 15 tuổi.
2. Lệ phí 40.000 đồng.
3. Người làm mất thẻ phải:
a) báo ngay;
d) nộp phí;
đ) chờ 3 ngày."""
CONTRACT = """3.1 The landlord repairs the roof.
It is inspected in spring.
3.2 The tenant repairs the doors.
Clause 4: leaks are reported at once."""


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("Khoản 2 Điều 3 quy định gì?", Clause("2")),
        ("khoan 2 dieu 3", Clause("2")),
        ("Điểm đ khoản 3 Điều 3", Clause("3", "đ")),
        ("What does clause 2(b) of Article 3 say?", Clause("2", "b")),
        ("paragraph 4 of Article 1", Clause("4")),
        ("Khoản 5 triệu đồng trả khi nào?", None),
        ("Khoản 30 ngày tính thế nào?", None),
        ("Điều 3 quy định gì?", None),
        ("Khoản 1 và khoản 2 Điều 5 nói gì?", None),
        ("Khoản 2 quy định gì?", None),
        ("Sinh viên đạt điểm D có qua môn theo Điều 5 không?", Clause("", "d")),
        ("Sinh viên đạt điểm D có qua môn không?", None),
        ("At what point I can get a refund?", None),
        ("Tài khoản 2 của Điều 5 dùng để làm gì?", None),
        ("tai khoan 2 cua dieu 5 dung lam gi", None),
    ],
)
def test_what_a_question_names(asked: str, named: Clause | None) -> None:
    assert clause_in(asked) == named


@pytest.mark.parametrize(
    ("text", "wanted", "found"),
    [
        (ARTICLE, Clause("2"), "2. Lệ phí 40.000 đồng."),
        (ARTICLE, Clause("3"), ARTICLE[ARTICLE.index("3. ") :]),
        (ARTICLE, Clause("3", "d"), "d) nộp phí;"),
        (ARTICLE, Clause("3", "đ"), "đ) chờ 3 ngày."),
        (ARTICLE, Clause("3", "e"), ARTICLE[ARTICLE.index("3. ") :]),
        (ARTICLE, Clause("", "a"), "a) báo ngay;"),
        (ARTICLE, Clause("", "e"), ""),
        (ARTICLE, Clause("9"), ""),
        (CONTRACT, Clause("3.2"), "3.2 The tenant repairs the doors."),
        (CONTRACT, Clause("1", articles=frozenset({"3"})), CONTRACT[: CONTRACT.index("\n3.2")]),
        (CONTRACT, Clause("1", articles=frozenset({"5"})), ""),
        (CONTRACT, Clause("4"), "Clause 4: leaks are reported at once."),
        ("5 ngày làm việc.", Clause("5"), ""),
    ],
)
def test_its_lines(text: str, wanted: Clause, found: str) -> None:
    assert clause_of(text, wanted) == found


def test_whether_an_article_has_clauses() -> None:
    assert has_clauses(ARTICLE)
    assert not has_clauses("Nhân viên có 13 ngày phép.\n3.5 triệu đồng mỗi tháng.")
