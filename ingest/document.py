"""What reading yields and chunking takes: text with its places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["heading", "paragraph", "list_item", "table_row", "code"]


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a document that is never joined with its neighbours on one line.

    Attributes:
        kind: What the block is; decides where chunks may be cut.
        text: NFC text, never empty. A table row is its cells joined by " | ".
        level: 1 for the highest heading, 6 for the lowest; 0 for anything else.
        page: 1-based page, slide or sheet number; None where the format has none.
        header: For a table row, the header row of its table, in the same form as `text`.
        question, answer: For a row of a recognised question/answer sheet, its two cells, verbatim.
    """

    kind: BlockKind
    text: str
    level: int = 0
    page: int | None = None
    header: str | None = None
    question: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A file as read: its blocks in reading order."""

    blocks: tuple[Block, ...]
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is embedded, indexed and cited.

    Attributes:
        text: The chunk's own text, without its heading path.
        start, end: Character span in the document's text, which is its blocks' texts joined by
            one newline each (`"\\n".join(b.text for b in blocks)`). Equal to `text` there, except
            for a table chunk, whose `text` repeats the header and whose span covers the rows.
        page: 1-based page on which the chunk starts; None where the format has none.
        heading_path: Headings above the chunk, outermost first.
        question, answer: For a row of a question/answer sheet, its two cells, verbatim.
    """

    text: str
    start: int
    end: int
    page: int | None = None
    heading_path: tuple[str, ...] = ()
    question: str | None = None
    answer: str | None = None

    @property
    def indexed_text(self) -> str:
        """What the encoder and the lexical index read: the heading path, then the text."""
        return with_headings(self.heading_path, self.text)


def with_headings(heading_path: tuple[str, ...], text: str) -> str:
    """A text under its headings, which say what it is about: "A › B", a newline, the text."""
    return f"{' › '.join(heading_path)}\n{text}" if heading_path else text
