"""A document cut into windows of a fixed size that overlap: OpenAI's `static` strategy.

For users who want what they had elsewhere. A token is one of the encoder's own tokenizer, and no
window is larger than what the encoder reads: text past that would be stored and never found. Of a
window that must be smaller, the overlap keeps its share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ingest.chunking.sentences import MOST_CHARS_PER_TOKEN, pieces
from ingest.document import Block, Chunk, Document, with_headings

_PATH_SHARE = 4
"""The heading path takes at most a quarter of what the encoder reads."""
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class StaticSize:
    """Sizes of windows in tokens, named as in OpenAI's `chunking_strategy.static`."""

    max_chunk_size_tokens: int
    chunk_overlap_tokens: int

    def within(self, most: int) -> StaticSize:
        """These sizes where at most so many tokens can be read at once."""
        size = min(self.max_chunk_size_tokens, most)
        overlap = self.chunk_overlap_tokens * size // self.max_chunk_size_tokens
        return StaticSize(size, overlap)


def windows(
    document: Document,
    count_tokens: Callable[[str], int],
    max_tokens: int,
    size: StaticSize,
) -> list[Chunk]:
    """Windows in reading order; `count_tokens(chunk.indexed_text) <= max_tokens` for every one.

    They are cut between words, and run over headings, which are text as any other; the headings
    above a window's beginning are its heading path as far as there is room. A row of a
    question/answer sheet is a window of its own: it answers as a whole.

    Raises:
        ValueError: `max_tokens` leaves no room for a single character.
    """
    return list(_Cutter(document, count_tokens, max_tokens, size).chunks())


@dataclass(frozen=True, slots=True)
class _Word:
    """A word's span in the document's text, its tokens, and its block."""

    start: int
    end: int
    cost: int
    block: int


class _Cutter:
    """One document's text, its words, and the counter."""

    def __init__(
        self,
        document: Document,
        count_tokens: Callable[[str], int],
        max_tokens: int,
        size: StaticSize,
    ) -> None:
        self._blocks = document.blocks
        self._text = "\n".join(block.text for block in document.blocks)
        self._count = count_tokens
        self._added = count_tokens("")
        self._most = max_tokens
        self._limit = max_tokens - self._added
        if self._limit < 1:
            raise ValueError(f"max_tokens={max_tokens} leaves no room for text")
        self._size = size
        self._costs: dict[str, int] = {}
        self._paths = _heading_paths(document.blocks)

    def chunks(self) -> Iterator[Chunk]:
        """Windows over what lies between the rows that stand alone, and these rows."""
        run: list[_Word] = []
        position = 0
        for index, block in enumerate(self._blocks):
            words = list(self._words(index, position))
            position += len(block.text) + 1
            if block.question is None:
                run += words
                continue
            yield from self._over(run)
            run = []
            yield from self._row(block, words)
        yield from self._over(run)

    def _words(self, index: int, start: int) -> Iterator[_Word]:
        """A block's words; one that is longer than a window comes in pieces."""
        text = self._blocks[index].text
        most = self._size.within(self._limit).max_chunk_size_tokens
        for found in _WORD.finditer(text):
            begin, end = found.span()
            if self._cost(found.group()) <= most:
                spans = [(begin, end)]
            else:
                spans = list(pieces(text, (begin, end), self._cost, most))
            for begin, end in spans:
                yield _Word(start + begin, start + end, self._cost(text[begin:end]), index)

    def _cost(self, text: str) -> int:
        known = self._costs.get(text)
        if known is None:
            counted = self._count(text) - self._added
            known = self._costs[text] = max(1, counted, len(text) // MOST_CHARS_PER_TOKEN)
        return known

    def _over(self, words: Sequence[_Word]) -> Iterator[Chunk]:
        """Windows over consecutive words, each beginning within the one before."""
        first = 0
        while first < len(words):
            path, room = self._path(words[first].block)
            size = self._size.within(room)
            last, chunk = self._window(words, first, path, size.max_chunk_size_tokens)
            yield chunk
            if last == len(words):
                return
            following, kept = last, 0
            while following - 1 > first:
                kept += words[following - 1].cost
                if kept > size.chunk_overlap_tokens:
                    break
                following -= 1
            first = following

    def _window(
        self, words: Sequence[_Word], first: int, path: tuple[str, ...], size: int
    ) -> tuple[int, Chunk]:
        """The window that begins at a word, and the index of the first word that is not in it."""
        last, total = first, 0
        while last < len(words) and (last == first or total + words[last].cost <= size):
            total += words[last].cost
            last += 1
        while True:
            chunk = self._chunk(words[first], words[last - 1], path)
            # Some tokenizers count words together as more than each alone.
            over = self._count(chunk.indexed_text) - self._most
            if over <= 0:
                return last, chunk
            if last - first > 1:
                last = max(first + 1, last - max(1, over // 2))
            elif path:
                path = path[1:]
            else:
                return last, chunk

    def _row(self, block: Block, words: Sequence[_Word]) -> Iterator[Chunk]:
        """A question/answer row, whole where it fits; cut, its first part still answers."""
        first = 0
        while first < len(words):
            path, room = self._path(words[first].block)
            last, chunk = self._window(words, first, path, room)
            pair = (block.question, block.answer) if first == 0 else (None, None)
            yield Chunk(chunk.text, chunk.start, chunk.end, chunk.page, chunk.heading_path, *pair)
            first = last

    def _chunk(self, first: _Word, last: _Word, path: tuple[str, ...]) -> Chunk:
        text = self._text[first.start : last.end]
        return Chunk(text, first.start, last.end, self._blocks[first.block].page, path)

    def _path(self, index: int) -> tuple[tuple[str, ...], int]:
        """The headings above a block that fit, and the tokens that they leave to the text."""
        path = self._paths[index]
        while path:
            used = self._count(with_headings(path, "")) - self._added + 1
            if used <= self._limit // _PATH_SHARE:
                return path, self._limit - used
            path = path[1:]
        return (), self._limit


def _heading_paths(blocks: Sequence[Block]) -> list[tuple[str, ...]]:
    """For each block the headings above it, outermost first."""
    paths: list[tuple[str, ...]] = []
    stack: list[Block] = []
    for block in blocks:
        if block.kind == "heading":
            while stack and stack[-1].level >= block.level:
                stack.pop()
        paths.append(tuple(" ".join(heading.text.split()) for heading in stack))
        if block.kind == "heading":
            stack.append(block)
    return paths
