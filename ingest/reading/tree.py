"""A tree of HTML elements to blocks: web pages, Markdown, Word (through mammoth) and EPUB.

Written here because the libraries tried lose headings, tables or half of the text, or keep the
menus; docs/READING.md has the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lxml import html as lxml_html  # type: ignore[import-untyped]

from ingest.document import Block
from ingest.reading import tables
from ingest.reading.cleaning import clean, one_line

if TYPE_CHECKING:
    from lxml.html import HtmlElement  # type: ignore[import-untyped]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HEADINGS = {f"h{n}": n for n in range(1, 7)}
_NO_TEXT = _names(
    "script style head noscript template iframe object svg math canvas audio video button select "
    "input textarea option datalist map"
)
_NAVIGATION = frozenset(("nav", "footer", "aside", "menu", "dialog"))
_ROLES = frozenset(
    ("navigation", "banner", "contentinfo", "complementary", "search", "menu", "menubar", "alert")
)
# A whole class or id, for the id of a section is a slug of its heading: "editing-and-navigation".
_NOISE = re.compile(
    r"(?:site-|page-|post-)?(?:breadcrumbs?|cookies?|comments?|share|sharing|social|related|"
    r"sidebar|navbar|navigation|pagination|adverts?|banner|popup|modal|newsletter|skip-link|"
    r"sr-only)(?:-(?:list|section|box|bar|links?|container|wrapper|content|posts|banner|notice))?",
    re.IGNORECASE,
)
_INLINE = _names(
    "a abbr acronym b bdi bdo big br cite code data del dfn em font i img ins kbd label mark "
    "q rp rt ruby s samp small span strike strong sub sup time tt u var wbr output"
)
_MOST_LINKED = 0.8
DEEPEST = 200
"""Levels of nesting; a page nested deeper is read as one run of text below that."""


def parse(markup: str) -> HtmlElement | None:
    """The root element; None where there is nothing in it.

    lxml's HTML parser knows no entities but HTML's own and fetches nothing.
    """
    if not markup.strip():
        return None
    parser = lxml_html.HTMLParser(encoding="utf-8", no_network=True, huge_tree=True)
    return lxml_html.document_fromstring(markup.encode("utf-8"), parser=parser)


def blocks(root: HtmlElement, *, prune: bool = False) -> Iterator[Block]:
    """Blocks in reading order; with `prune`, without menus, footers and the like."""
    yield from _Walk(prune).inside(root, 0)


class _Walk:
    """One pass over a tree."""

    def __init__(self, prune: bool) -> None:
        self._prune = prune
        self._marker = ""

    def inside(self, element: HtmlElement, depth: int, kind: str = "paragraph") -> Iterator[Block]:
        """Blocks of an element's children; runs of inline ones make one block."""
        run = [element.text or ""]
        for child in element:
            if not isinstance(child.tag, str):  # a comment or a processing instruction
                run.append(child.tail or "")
                continue
            if self._skipped(child):
                run.append(" ")
            elif _is_inline(child) and depth < DEEPEST:
                run.append(_text(child))
            else:
                yield from self._flush(run, kind)
                run = []
                yield from self._block(child, depth + 1, kind)
            run.append(child.tail or "")
        yield from self._flush(run, kind)

    def _flush(self, run: list[str], kind: str) -> Iterator[Block]:
        text = one_line("".join(run))
        if text:
            marker, self._marker = self._marker, ""
            yield Block("list_item" if kind == "list_item" else "paragraph", marker + text)

    def _block(self, element: HtmlElement, depth: int, kind: str) -> Iterator[Block]:
        tag = element.tag
        if tag in _HEADINGS:
            text = one_line(_text(element)).removesuffix("¶").strip("§ ")
            if text:
                yield Block("heading", text, level=_HEADINGS[tag])
        elif tag == "pre":
            text = clean(_text(element, keep_lines=True)).strip("\n")
            if text.strip():
                yield Block("code", text)
        elif tag == "table":
            yield from self._table(element, depth)
        elif depth >= DEEPEST:
            yield from self._flush([element.text_content()], kind)
        elif tag in ("li", "dd"):
            self._marker = _number(element)
            yield from self.inside(element, depth, "list_item")
        elif tag == "hr":
            return
        else:
            yield from self.inside(element, depth, kind)

    def _table(self, element: HtmlElement, depth: int) -> Iterator[Block]:
        rows = element.xpath("./tr|./thead/tr|./tbody/tr|./tfoot/tr")
        widest = max((len(row.xpath("./td|./th")) for row in rows), default=0)
        layout = element.xpath(".//table|.//h1|.//h2|.//h3|.//h4") or widest < 2
        for caption in element.xpath("./caption"):
            yield from self._flush([_text(caption)], "paragraph")
        if layout:
            for cell in element.xpath("./tr/*|./thead/tr/*|./tbody/tr/*|./tfoot/tr/*"):
                yield from self.inside(cell, depth + 1)
            return
        yield from tables.sheet(_grid(rows))

    def _skipped(self, element: HtmlElement) -> bool:
        if element.tag in _NO_TEXT:
            return True
        if not self._prune:
            return False
        if element.tag in _NAVIGATION or element.get("role") in _ROLES:
            return True
        if element.get("hidden") is not None or element.get("aria-hidden") == "true":
            return True
        if element.tag == "header" and element.getparent().tag == "body":
            return not element.xpath(".//h1")
        if element.tag not in ("ul", "ol", "div", "p"):
            return False
        names = f"{element.get('class', '')} {element.get('id', '')}".split()
        if any(_NOISE.fullmatch(name) for name in names):
            return not element.xpath(".//h1|.//h2|.//main|.//article")
        return _is_menu(element)


def _is_inline(element: HtmlElement) -> bool:
    if element.tag not in _INLINE:
        return False
    # `<a><div>…</div></a>` and `<span><p>…</p></span>` are containers.
    return len(element) == 0 or all(
        not isinstance(below.tag, str) or below.tag in _INLINE or below.tag in _NO_TEXT
        for below in element.iterdescendants()
    )


def _is_menu(element: HtmlElement) -> bool:
    """Three short links or more, and hardly any text beside them."""
    links = element.xpath(".//a[@href]")
    if len(links) < 3 or element.xpath(".//h1|.//h2|.//table|.//pre"):
        return False
    linked = sum(len(one_line(link.text_content())) for link in links)
    total = len(one_line(element.text_content()))
    return linked >= _MOST_LINKED * total and linked < 60 * len(links)


def _text(element: HtmlElement, *, keep_lines: bool = False) -> str:
    """The element's own text; a line break is white space, or kept for code."""
    parts: list[str] = []
    for event, node in _events(element):
        if event == "start":
            if node.tag == "br":
                parts.append("\n" if keep_lines else " ")
            parts.append(node.text or "")
        elif node is not element:
            parts.append(node.tail or "")
    return "".join(parts)


def _events(element: HtmlElement) -> Iterator[tuple[str, HtmlElement]]:
    """Start and end of every element with text, without recursion."""
    stack: list[tuple[str, HtmlElement]] = [("start", element)]
    while stack:
        event, node = stack.pop()
        silent = not isinstance(node.tag, str) or node.tag in _NO_TEXT
        if event == "start" and silent:
            event = "end"
        elif event == "start":
            stack.append(("end", node))
            stack.extend(("start", child) for child in reversed(node))
        yield event, node


def _number(item: HtmlElement) -> str:
    """ "3. " or "c. " for an item of a numbered list: laws and contracts are cited by it."""
    parent = item.getparent()
    if parent is None or parent.tag != "ol":
        return ""
    start = parent.get("start", "1")
    first = int(start) if start.isdecimal() else 1
    number = first + sum(1 for _ in item.itersiblings("li", preceding=True))
    letters = parent.get("type") in ("a", "A") and number <= 26
    return f"{chr(ord('a') + number - 1)}. " if letters else f"{number}. "


def _grid(rows: list[HtmlElement]) -> Iterator[list[str]]:
    """Rows of cell texts; a cell spanning rows is repeated in each, for it belongs to each."""
    hanging: dict[int, tuple[int, str]] = {}
    for row in rows:
        cells: list[str] = []
        for cell in row.xpath("./td|./th"):
            _take_hanging(cells, hanging)
            text = _cell(cell)
            span, down = _span(cell, "colspan"), _span(cell, "rowspan")
            for offset in range(span):
                if down > 1:
                    hanging[len(cells)] = (down - 1, text if offset == 0 else "")
                cells.append(text if offset == 0 else "")
        _take_hanging(cells, hanging)
        yield cells


def _take_hanging(cells: list[str], hanging: dict[int, tuple[int, str]]) -> None:
    while len(cells) in hanging:
        left, text = hanging.pop(len(cells))
        if left > 1:
            hanging[len(cells)] = (left - 1, text)
        cells.append(text)


def _span(cell: HtmlElement, name: str) -> int:
    value = cell.get(name, "1").strip()
    return min(int(value), 100) if value.isdecimal() and int(value) > 0 else 1


def _cell(cell: HtmlElement) -> str:
    """Text of a cell, paragraphs in it kept apart."""
    return "\n".join(" ".join(part.split()) for part in _parts(cell)).strip()


def _parts(cell: HtmlElement) -> list[str]:
    parts = [""]
    for event, node in _events(cell):
        block = isinstance(node.tag, str) and node.tag not in _INLINE and node is not cell
        if block or (event == "start" and node.tag == "br"):
            parts.append("")
        if event == "start":
            parts[-1] += node.text or ""
        elif node is not cell:
            parts[-1] += node.tail or ""
    return [part for part in parts if part.strip()]
