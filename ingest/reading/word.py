"""Word documents, through mammoth's HTML: headings, lists, tables, footnotes, insertions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mammoth  # type: ignore[import-untyped]

from ingest.document import Document
from ingest.reading import archive, tree

_STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='Subtitle'] => p:fresh
comment-reference =>
"""


def read(path: Path, name: str) -> Document:
    """The document's blocks; Word stores no page numbers, so there are none.

    Raises:
        UnreadableFile: it is damaged, protected or a bomb.
    """
    archive.check(path, name)
    with path.open("rb") as file:
        converted = mammoth.convert_to_html(file, style_map=_STYLES, convert_image=_no_image)
    root = tree.parse(converted.value)
    return Document(() if root is None else tuple(tree.blocks(root)))


def _no_image(_image: Any) -> list[Any]:
    # The default writes each image into the HTML in base64.
    return []
