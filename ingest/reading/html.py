"""Web pages: what a reader came for, without menus, side bars and footers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.document import Block, Document
from ingest.reading import tree
from ingest.reading.cleaning import clean, one_line
from ingest.reading.decoding import decode

if TYPE_CHECKING:
    from lxml.html import HtmlElement  # type: ignore[import-untyped]

_CHARSET = re.compile(
    rb"<(?:meta[^>]+?charset|\?xml[^>]+?encoding)=[\"']?\s*([\w-]+)", re.IGNORECASE
)
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_LEAST_KEPT = 0.3
"""Of the page's letters. Where pruning leaves less, the page is nothing but what was pruned."""


def read(path: Path, name: str) -> Document:
    """The page's blocks and its title.

    Raises:
        UnreadableFile: it is no text.
    """
    root = tree.parse(_DECLARATION.sub("", _markup(path.read_bytes(), name), count=1))
    if root is None:
        return Document(())
    title = one_line(root.findtext(".//title") or "") or None
    return Document(_content(root), title)


def _markup(data: bytes, name: str) -> str:
    declared = _CHARSET.search(data[:4096])
    if declared and b"\x00" not in data[:4096]:
        try:
            return clean(data.decode(declared.group(1).decode("ascii")))
        except (LookupError, UnicodeDecodeError):
            pass  # pages lie about it; the bytes decide
    return decode(data, name)


def _content(root: HtmlElement) -> tuple[Block, ...]:
    body = root.find("body")
    body = root if body is None else body
    main = body.xpath(".//main|.//*[@role='main']")
    # Several articles are a list of teasers, or a blog's page: then the body is read.
    articles = body.xpath(".//article[not(ancestor::article)]")
    start = main[0] if len(main) == 1 else articles[0] if len(articles) == 1 else body
    everything = tuple(tree.blocks(body))
    for candidate in (start, body):
        kept = tuple(tree.blocks(candidate, prune=True))
        if _letters(kept) >= _LEAST_KEPT * _letters(everything):
            return kept
    return everything


def _letters(blocks: tuple[Block, ...]) -> int:
    return sum(len(block.text) for block in blocks)
