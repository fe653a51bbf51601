"""Headings that legal texts write as plain lines: "Chương II", "Điều 5. Tốc độ", "Article 7."

Law reaches us as PDF, plain text or Word without heading styles, and is cited by article.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ingest.document import Block, Document

_NUMBER = r"(?:thứ\s+\w+|[IVXLC]+|\d+)[a-zđ]?\b"
# Level 1 is left to the document's title. Every kind is one level below the kind it stands in.
_KINDS: tuple[tuple[int, re.Pattern[str]], ...] = (
    (2, re.compile(rf"(?:Phần|PHẦN|Phụ lục|PHỤ LỤC|Part|PART|Annex|ANNEX)\s+{_NUMBER}")),
    (3, re.compile(rf"(?:Chương|CHƯƠNG|Chapter|CHAPTER)\s+{_NUMBER}")),
    (4, re.compile(rf"(?:Mục|MỤC|Section|SECTION)\s+{_NUMBER}")),
    (5, re.compile(rf"(?:Tiểu mục|TIỂU MỤC)\s+{_NUMBER}")),
    (6, re.compile(r"(?:Điều|ĐIỀU|Article|ARTICLE)\s+\d+[a-zđ]?\b")),
)
_CAPTION = re.compile(r"\s*(?:[.:–—-]\s*|$)")
_CLAUSE = re.compile(r"(?:(?:Khoản|Điểm)\s+)?(?:\d{1,3}|[a-zđ]|[ivx]{1,4})[.)]\s+\S")
_BULLET = re.compile(r"[-•*–—+●○▪◦·‣]\s+\S")
LONGEST_HEADING = 160
"""Characters. A longer line is an article written in one paragraph."""


@dataclass(frozen=True, slots=True)
class LegalHeading:
    """What a line that opens a part of a law says.

    Attributes:
        level: 2 (part) to 6 (article).
        heading: The number with its caption, or the number alone where the text follows on.
        rest: Text of the article on the same line, or "".
    """

    level: int
    heading: str
    rest: str


def parse(line: str) -> LegalHeading | None:
    """The heading on `line`, or None: "Điều 5 của Luật này" is a reference, not a heading."""
    for level, pattern in _KINDS:
        number = pattern.match(line)
        if number is None:
            continue
        caption = _CAPTION.match(line, number.end())
        rest = line[caption.end() :] if caption else line[number.end() :].strip()
        if caption is None and not _is_capitals(rest):
            return None
        if len(line) <= LONGEST_HEADING:
            return LegalHeading(level, line, "")
        return LegalHeading(level, line[: number.end()], rest)
    return None


def is_item(line: str) -> bool:
    """Whether the line opens a clause ("2. …", "đ) …") or another list item."""
    return bool(_CLAUSE.match(line) or _BULLET.match(line))


def mark_headings(document: Document) -> Document:
    """The document with such paragraphs made headings, and clauses made list items."""
    return replace(document, blocks=tuple(_marked(document.blocks)))


def _marked(blocks: Sequence[Block]) -> Iterator[Block]:
    index = 0
    while index < len(blocks):
        block = blocks[index]
        index += 1
        found = parse(block.text) if _is_plain_line(block) else None
        if found is None:
            clause = block.kind == "paragraph" and is_item(block.text)
            yield replace(block, kind="list_item") if clause else block
            continue
        heading = found.heading
        # "Chương II" has its name on the next line, in capitals.
        if found.level < 6 and not found.rest and index < len(blocks):
            following = blocks[index]
            if _is_bare(heading) and _is_name(following):
                heading = f"{heading.rstrip('.: ')}. {following.text}"
                index += 1
        yield replace(block, kind="heading", level=found.level, text=heading)
        if found.rest:
            yield replace(block, text=found.rest)


def _is_plain_line(block: Block) -> bool:
    return block.kind in ("paragraph", "list_item") and "\n" not in block.text


def _is_bare(heading: str) -> bool:
    return any(re.fullmatch(rf"{p.pattern}\s*[.:]?", heading) for _, p in _KINDS)


def _is_name(block: Block) -> bool:
    return (
        block.kind in ("paragraph", "heading")
        and len(block.text) <= LONGEST_HEADING
        and "\n" not in block.text
        and _is_capitals(block.text)
        and parse(block.text) is None
    )


def _is_capitals(text: str) -> bool:
    return text.isupper() and sum(c.isalpha() for c in text) >= 3


def is_title_in_capitals(line: str) -> bool:
    """Whether a line standing alone is a heading because it is written in capitals."""
    return _is_capitals(line) and len(line) <= 100 and (line[-1].isalnum() or line[-1] in ")?!”")
