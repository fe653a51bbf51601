"""Lines as a text file or a page has them, joined into paragraphs, headings and list items."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ingest.document import Block
from ingest.reading import legal

_SENTENCE_END = re.compile(r"[.!?…:;。！？][\"'”’»)\]]*$")
_NUMBERED_HEADING = re.compile(r"(\d{1,2}(?:\.\d{1,2}){1,4})\.?\s+\S")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text.

    Attributes:
        text: Without surrounding white space, not empty.
        full: It reaches the right margin, so its sentence may go on in the next line.
        gap: Empty space stands above it.
        page: 1-based page, or None.
        level: Above 0 where its size makes it a heading.
    """

    text: str
    full: bool
    gap: bool
    page: int | None = None
    level: int = 0


def blocks(lines: Sequence[Line]) -> Iterator[Block]:
    """Blocks in the order of the lines; a sentence broken over lines or pages is joined."""
    index = 0
    while index < len(lines):
        first = lines[index]
        end = index + 1
        while end < len(lines) and _goes_on(first, lines[end - 1], lines[end]):
            end += 1
        text = _joined([line.text for line in lines[index:end]])
        # In a text file a heading may stand right above its text; a page has sizes to tell it.
        alone = first.gap and (end == len(lines) or lines[end].gap or first.page is None)
        yield _block(first, text, alone=alone, opens=index == 0)
        index = end


def _goes_on(first: Line, last: Line, line: Line) -> bool:
    """Whether `line` continues the paragraph that starts at `first` and now ends at `last`."""
    if first.level or line.level:
        return first.level == line.level and not line.gap and _starts_lower_or_full(last, line)
    if legal.parse(line.text) or legal.is_item(line.text):
        return False
    if last.page != line.page:
        return last.full and not _SENTENCE_END.search(last.text) and line.text[:1].islower()
    capitals = legal.is_title_in_capitals(line.text)
    # A title in capitals goes on in capitals, and does not go on in the text below it.
    if line.gap or capitals != legal.is_title_in_capitals(last.text):
        return False
    return capitals or last.full


def _starts_lower_or_full(last: Line, line: Line) -> bool:
    return last.page == line.page and (last.full or line.text[:1].islower())


def _joined(parts: list[str]) -> str:
    """Lines of a paragraph on one line; a word hyphenated at the end of a line made whole."""
    text = parts[0]
    for part in parts[1:]:
        if re.search(r"[a-z]{2}-$", text) and part[:1].islower():
            text = text[:-1] + part
        else:
            text = f"{text} {part}"
    return text


def _block(first: Line, text: str, *, alone: bool, opens: bool) -> Block:
    found = legal.parse(text)
    if found is None and first.level:
        return Block("heading", text, level=first.level, page=first.page)
    if found is None and alone:
        level = _heading_level(text)
        if level:
            return Block("heading", text, level=1 if opens else level, page=first.page)
    kind = legal.is_item(text)
    return Block("list_item" if kind else "paragraph", text, page=first.page)


def _heading_level(text: str) -> int:
    """Level of a line that stands alone and looks like a heading; 0 where it does not."""
    if legal.is_title_in_capitals(text):
        return 2
    numbered = _NUMBERED_HEADING.match(text)
    if numbered and len(text) <= 100 and not _SENTENCE_END.search(text):
        return min(6, 1 + numbered.group(1).count(".") + 1)
    return 0
