"""Rows of cells, from whatever format, as blocks; question/answer sheets are recognised here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from ingest.document import Block
from ingest.reading.cleaning import clean, one_line

SEPARATOR = " | "


def _names(listed: str) -> frozenset[str]:
    return frozenset(" ".join(name.split()) for name in listed.split(","))


_QUESTION = _names(
    """question, questions, q, query, faq, question text, user question, customer question,
    câu hỏi, hỏi, nội dung câu hỏi, nội dung hỏi, câu hỏi thường gặp, câu hỏi của khách hàng,
    khách hàng hỏi, người dân hỏi, thắc mắc, cau hoi, hoi, noi dung cau hoi, noi dung hoi,
    cau hoi thuong gap, cau hoi cua khach hang, khach hang hoi, thac mac"""
)
_ANSWER = _names(
    """answer, answers, a, ans, reply, response, answer text, suggested answer, official answer,
    đáp án, trả lời, câu trả lời, giải đáp, đáp, nội dung trả lời, nội dung giải đáp,
    nội dung đáp, hướng dẫn trả lời, gợi ý trả lời, câu trả lời mẫu, trả lời mẫu, phản hồi,
    dap an, tra loi, cau tra loi, giai dap, noi dung tra loi, noi dung giai dap, noi dung dap,
    goi y tra loi, cau tra loi mau, tra loi mau, phan hoi, dap"""
)
_TONGUE = re.compile(
    r" (?:vi|vn|vie|en|eng|english|vietnamese|tiếng việt|tiếng anh|tieng viet|tieng anh)$"
)
_NOT_LETTERS = re.compile(r"[\W_]+")


def folded(name: str) -> str:
    """A column's name as it is compared: NFC, case, white space and punctuation folded."""
    return _NOT_LETTERS.sub(" ", unicodedata.normalize("NFC", name).casefold()).strip()


def question_and_answer(names: Sequence[str]) -> tuple[int, int] | None:
    """Positions of the question's and the answer's column, where the header has both."""
    keys = [folded(name) for name in names]
    question = next((i for i, key in enumerate(keys) if _is_named(key, _QUESTION)), None)
    answer = next((i for i, key in enumerate(keys) if _is_named(key, _ANSWER)), None)
    return None if question is None or answer is None else (question, answer)


def _is_named(key: str, names: frozenset[str]) -> bool:
    """Whether a column is named so: "Câu hỏi", "Câu hỏi / Question", "Question (EN)"."""
    key = _TONGUE.sub("", key)
    parts = key.split(" ")
    cuts = ((" ".join(parts[:n]), " ".join(parts[n:])) for n in range(1, len(parts)))
    # Not by a letter: "Đáp án A" is one of several choices.
    both = (one in names and other in names and len(other) > 1 for one, other in cuts)
    return key in names or any(both)


def joined(cells: Iterable[str]) -> str:
    """A row on one line. Empty cells keep their place, so that columns stay under their header."""
    return SEPARATOR.join(one_line(cell) for cell in cells).rstrip(" |").strip()


def sheet(rows: Iterable[Sequence[str]], page: int | None = None) -> Iterator[Block]:
    """Blocks of a sheet: lines of one cell above the table, then its rows under their header."""
    numbered = (list(row) for row in rows)
    filled = (row for row in numbered if any(cell.strip() for cell in row))
    for row in filled:
        if sum(1 for cell in row if cell.strip()) == 1:
            # A title over the table, or a sheet of one column.
            yield Block("paragraph", one_line(" ".join(row)), page=page)
            continue
        yield from table(row, filled, page)


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], page: int | None = None
) -> Iterator[Block]:
    """Row blocks under `header`; the header itself is a block only where it has no rows."""
    heading = joined(header)
    columns = question_and_answer(header)
    empty = True
    for row in rows:
        text = joined(row)
        if not text:
            continue
        empty = False
        block = _curated(row, columns, text, heading, page) if columns else None
        yield block or Block("table_row", text, page=page, header=heading or None)
    if empty and heading:
        yield Block("table_row", heading, page=page)


def _curated(
    row: Sequence[str], columns: tuple[int, int], text: str, header: str, page: int | None
) -> Block | None:
    """The row as a curated answer; None where it lacks the question or the answer."""
    cells = [clean(row[i]).strip() if i < len(row) else "" for i in columns]
    if not all(cells):
        return None
    return Block("table_row", text, page=page, header=header, question=cells[0], answer=cells[1])
