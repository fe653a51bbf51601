"""EPUB books: the chapters of the spine, in order."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from lxml import etree  # type: ignore[import-untyped]

from ingest.document import Block, Document
from ingest.errors import UnreadableFile
from ingest.reading import archive, tree
from ingest.reading.cleaning import one_line
from ingest.reading.decoding import decode

_CONTAINER = "META-INF/container.xml"


def read(path: Path, name: str) -> Document:
    """The book's blocks; a chapter has no page numbers.

    Raises:
        UnreadableFile: it is damaged, copy-protected or a bomb.
    """
    # Chapters may declare a document type; they are read by an HTML parser, which ignores it.
    archive.check(path, name, dtd_allowed=True)
    with zipfile.ZipFile(path) as book:
        try:
            package_path = _xml(book.read(_CONTAINER)).xpath(
                "//*[local-name()='rootfile']/@full-path"
            )
            package_name = str(package_path[0])
            package = _xml(book.read(package_name))
        except (KeyError, IndexError, etree.XMLSyntaxError) as exc:
            raise UnreadableFile(f"{name} is damaged: it has no table of its parts.") from exc
        blocks = tuple(_chapters(book, package, posixpath.dirname(package_name), name))
    if not blocks and "META-INF/encryption.xml" in book.namelist():
        raise UnreadableFile(f"{name} is copy-protected (DRM); get an unprotected copy.")
    title = package.xpath("string(//*[local-name()='metadata']/*[local-name()='title'])")
    return Document(blocks, one_line(str(title)) or None)


def _chapters(
    book: zipfile.ZipFile, package: etree._Element, folder: str, name: str
) -> Iterator[Block]:
    hrefs = {
        item.get("id"): item.get("href", "")
        for item in package.xpath("//*[local-name()='manifest']/*[local-name()='item']")
        # A book's own table of contents would repeat every heading.
        if "nav" not in (item.get("properties") or "").split()
    }
    for reference in package.xpath("//*[local-name()='spine']/*[local-name()='itemref']/@idref"):
        member = posixpath.normpath(posixpath.join(folder, unquote(hrefs.get(reference) or "")))
        if member not in book.namelist():
            continue
        data = book.read(member)
        try:
            markup = decode(data, name)
        except UnreadableFile:
            continue  # an encrypted chapter, or a picture in the spine
        root = tree.parse(markup.partition("?>")[2] if markup.startswith("<?xml") else markup)
        body = None if root is None else root.find("body")
        if body is not None:
            yield from tree.blocks(body)


def _xml(data: bytes) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    return etree.fromstring(data, parser)
