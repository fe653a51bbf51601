"""Markdown (CommonMark with tables), through HTML."""

from __future__ import annotations

import re
from pathlib import Path

from markdown_it import MarkdownIt

from ingest.document import Document
from ingest.reading import tree
from ingest.reading.decoding import read_text

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE)


def read(path: Path, name: str) -> Document:
    """The Markdown file's blocks; the title comes from its front matter.

    Raises:
        UnreadableFile: it is no text.
    """
    text = read_text(path, name)
    title = None
    front = _FRONT_MATTER.match(text)
    if front:
        found = _TITLE.search(front.group(1))
        title = found.group(1) if found else None
        text = text[front.end() :]
    root = tree.parse(MarkdownIt("commonmark").enable("table").render(text))
    return Document(() if root is None else tuple(tree.blocks(root)), title)
