"""A document cut into chunks along its structure: sections, tables, paragraphs, sentences.

A chunk never spans two sections. A section's heading path is part of what is indexed, and stands
for all of the chunk only where the chunk lies in one section; two small sections in one chunk
would lose the headings by which they are found and cited (an FAQ of short answers, articles of a
law).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from ingest.chunking.packing import Unit, coalesced, packed
from ingest.chunking.sentences import MOST_CHARS_PER_TOKEN, pieces, sentences
from ingest.document import Block, Chunk, Document

CountTokens = Callable[[str], int]

PATH_SHARE = 3
"""The heading path takes at most a third of a chunk."""

# What it costs to end a chunk there, against one squared share of the chunk left empty.
_AFTER_ITEM = 0.05
_AFTER_SENTENCE = 0.6
_AFTER_CODE_LINE = 0.6
_BEFORE_ITS_LIST = 0.4
_INSIDE_SENTENCE = 1.2


def split(document: Document, count_tokens: CountTokens, max_tokens: int) -> list[Chunk]:
    """Chunks in reading order; `count_tokens(chunk.indexed_text) <= max_tokens` for every one.

    `count_tokens` must count the whole text (a tokenizer's own truncation switched off), the
    tokens that are added to each text included. Every block's text lies in a chunk; a heading's
    may lie in the heading path alone.

    Raises:
        ValueError: `max_tokens` leaves no room for a single character.
    """
    return sorted(_Splitter(document, count_tokens, max_tokens).chunks(), key=lambda c: c.start)


@dataclass(frozen=True, slots=True)
class _Section:
    """Body blocks under one heading: indexes into the document's blocks."""

    headings: tuple[int, ...]
    body: tuple[int, ...]


class _Splitter:
    """One document's text, its offsets, and the counter."""

    def __init__(self, document: Document, count_tokens: CountTokens, max_tokens: int) -> None:
        self._blocks = document.blocks
        self._text = "\n".join(block.text for block in document.blocks)
        self._starts: list[int] = []
        position = 0
        for block in document.blocks:
            self._starts.append(position)
            position += len(block.text) + 1
        self._count = count_tokens
        self._most = max_tokens
        self._added = count_tokens("")
        self._limit = max_tokens - self._added
        if self._limit < 1:
            raise ValueError(f"max_tokens={max_tokens} leaves no room for text")
        self._seen: set[int] = set()

    def chunks(self) -> Iterator[Chunk]:
        """Chunks of all sections, then of the headings that no chunk's path carries."""
        for section in _sections(self._blocks):
            if section.body:
                path, shown = self._path(section.headings)
                self._seen.update(shown)
                for run in self._runs(section.body):
                    yield from self._run(run, path)
        for headings in reversed([s.headings for s in _sections(self._blocks) if s.headings]):
            if headings[-1] not in self._seen:
                path, shown = self._path(headings[:-1])
                self._seen.update((*shown, headings[-1]))
                yield from self._run(headings[-1:], path)

    def _cost(self, text: str) -> int:
        """Tokens that `text` adds to a chunk."""
        return max(1, self._count(text) - self._added, len(text) // MOST_CHARS_PER_TOKEN)

    def _path(self, headings: Sequence[int]) -> tuple[tuple[str, ...], Sequence[int]]:
        """Headings shortened from the outside in until they fit, and which of them are whole."""
        budget = self._limit // PATH_SHARE
        while headings:
            path = tuple(" ".join(self._blocks[i].text.split()) for i in headings)
            if self._cost(" › ".join(path)) < budget:
                return path, headings
            if len(headings) == 1 and budget > 1:
                begin, end = next(pieces(path[0], (0, len(path[0])), self._cost, budget - 1))
                return (path[0][begin:end],), ()
            headings = headings[1:]
        return (), ()

    def _runs(self, body: Sequence[int]) -> Iterator[Sequence[int]]:
        """Blocks that may share a chunk: prose, rows of one table, a curated row alone."""

        def key(index: int) -> tuple[object, ...]:
            block = self._blocks[index]
            if block.question is not None:
                return ("curated", index)
            return ("table", block.header) if block.kind == "table_row" else ("prose",)

        for _, run in groupby(body, key):
            yield tuple(run)

    def _run(self, run: Sequence[int], path: tuple[str, ...]) -> Iterator[Chunk]:
        first = self._blocks[run[0]]
        room = self._limit - (self._cost(" › ".join(path)) + 1 if path else 0)
        header = None
        if first.kind == "table_row" and first.header and first.question is None:
            header = self._header(first.header, room)
            room -= self._cost(header) + 1 if header else 0
        made: list[Chunk] = []
        units = coalesced(self._units(run, room), room // 16)
        for group in packed(units, room):
            made += self._made(group, path, header)
        if first.question is not None:
            # Cut in two, the row still answers once: with its first part.
            made[0] = replace(made[0], question=first.question, answer=first.answer)
        yield from made

    def _header(self, header: str, room: int) -> str | None:
        """The table's header, or as much of it as leaves half of the room to the rows."""
        if room < 4 or self._cost(header) < room // 2:
            return header if room >= 4 else None
        begin, end = next(pieces(header, (0, len(header)), self._cost, room // 2 - 1), (0, 0))
        return header[begin:end] or None

    def _units(self, run: Sequence[int], room: int) -> Iterator[Unit]:
        """Sentences, code lines or rows with their costs; what is too long is cut in pieces."""
        for position, index in enumerate(run):
            block = self._blocks[index]
            following = self._blocks[run[position + 1]] if position + 1 < len(run) else None
            spans = list(_spans(block))
            for number, (begin, end) in enumerate(spans):
                cost = self._cost(block.text[begin:end])
                parts = [(begin, end)]
                if cost > room:
                    parts = list(pieces(block.text, (begin, end), self._cost, room))
                for part in parts:
                    if part[1] < end:
                        penalty = _INSIDE_SENTENCE
                    elif number + 1 < len(spans):
                        penalty = _AFTER_CODE_LINE if block.kind == "code" else _AFTER_SENTENCE
                    else:
                        penalty = _after(block, following)
                    yield Unit(
                        self._starts[index] + part[0],
                        self._starts[index] + part[1],
                        cost if len(parts) == 1 else self._cost(block.text[part[0] : part[1]]),
                        penalty,
                        block.page,
                    )

    def _made(
        self, units: Sequence[Unit], path: tuple[str, ...], header: str | None
    ) -> Iterator[Chunk]:
        """The chunk of these units; more than one where the parts' counts do not add up."""
        start, end = units[0].start, units[-1].end
        own = self._text[start:end]
        text = f"{header}\n{own}" if header else own
        chunk = Chunk(text, start, end, units[0].page, path)
        if self._count(chunk.indexed_text) <= self._most:
            yield chunk
        elif len(units) > 1:
            middle = len(units) // 2
            yield from self._made(units[:middle], path, header)
            yield from self._made(units[middle:], path, header)
        elif path or header:
            yield from self._made(units, path[1:], header if path else None)
        else:
            for begin, stop in pieces(self._text, (start, end), self._cost, self._limit):
                yield Chunk(self._text[begin:stop], begin, stop, units[0].page)


def _sections(blocks: Sequence[Block]) -> Iterator[_Section]:
    """The document along its headings; a heading always opens a section of its own."""
    stack: list[int] = []
    body: list[int] = []
    for index, block in enumerate(blocks):
        if block.kind != "heading":
            body.append(index)
            continue
        yield _Section(tuple(stack), tuple(body))
        while stack and blocks[stack[-1]].level >= block.level:
            stack.pop()
        stack.append(index)
        body = []
    yield _Section(tuple(stack), tuple(body))


def _spans(block: Block) -> Iterator[tuple[int, int]]:
    if block.kind == "table_row":
        return iter([(0, len(block.text))])
    if block.kind == "code":
        return _code_lines(block.text)
    return sentences(block.text)


def _code_lines(text: str) -> Iterator[tuple[int, int]]:
    position = 0
    for line in text.split("\n"):
        if line.strip():
            # Trailing space is left out; leading space is the code's own.
            yield position, position + len(line.rstrip())
        position += len(line) + 1


def _after(block: Block, following: Block | None) -> float:
    """What it costs to end a chunk at the end of `block`."""
    if following is None or block.kind == "table_row":
        return 0.0
    if following.kind == "list_item" and block.kind != "list_item":
        return _BEFORE_ITS_LIST if block.text.endswith(":") else _AFTER_ITEM
    return _AFTER_ITEM if block.kind == following.kind == "list_item" else 0.0
