"""Rows of cells, from whatever format, as blocks; question/answer sheets are recognised here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from ingest.document import Block
from ingest.reading.cleaning import clean, one_line

SEPARATOR = " | "
_QUESTION = frozenset(
    """question, questions, q, query, faq, câu hỏi, hỏi, nội dung câu hỏi, câu hỏi thường gặp,
    cau hoi, hoi, noi dung cau hoi, cau hoi thuong gap, thắc mắc""".replace("\n    ", " ").split(
        ", "
    )
)
_ANSWER = frozenset(
    """answer, answers, a, reply, response, đáp án, trả lời, câu trả lời, giải đáp, đáp,
    nội dung trả lời, hướng dẫn trả lời, dap an, tra loi, cau tra loi, giai dap,
    noi dung tra loi, dap""".replace("\n    ", " ").split(", ")
)
_NOT_LETTERS = re.compile(r"[\W_]+")


def folded(name: str) -> str:
    """A column's name as it is compared: NFC, case, white space and punctuation folded."""
    return _NOT_LETTERS.sub(" ", unicodedata.normalize("NFC", name).casefold()).strip()


def question_and_answer(names: Sequence[str]) -> tuple[int, int] | None:
    """Positions of the question's and the answer's column, where the header has both."""
    keys = [folded(name) for name in names]
    question = next((i for i, key in enumerate(keys) if key in _QUESTION), None)
    answer = next((i for i, key in enumerate(keys) if key in _ANSWER), None)
    return None if question is None or answer is None else (question, answer)


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
