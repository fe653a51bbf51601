"""Text as everything after reading may rely on it: NFC, without control characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace

from ingest.document import Block, Document

_NEWLINES = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# Controls, soft hyphens, zero-width space and BOM, word joiners, direction marks, surrogates (which
# no UTF-8 file may hold) and non-characters. Zero-width joiners stay: some scripts need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u2069\ufeff\ufdd0-\ufdef\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
# Canonical ordering is quadratic in the length of a run of marks; no language stacks more than 8.
_MARKS = re.compile("([\u0300-\u036f]{8})[\u0300-\u036f]+")
_BLANK = re.compile(r"\s+")


def clean(text: str) -> str:
    """NFC; one kind of newline and of space; control and invisible characters removed."""
    text = _SPACES.sub(" ", _NEWLINES.sub("\n", text))
    return unicodedata.normalize("NFC", _MARKS.sub(r"\1", _INVISIBLE.sub("", text)))


def one_line(text: str) -> str:
    """Cleaned, with every run of white space made one space."""
    return _BLANK.sub(" ", clean(text)).strip()


def clean_document(document: Document) -> Document:
    """Every text of the document cleaned, blocks that hold nothing visible dropped."""
    title = one_line(document.title or "") or None
    return Document(tuple(_clean_blocks(document.blocks)), title)


def _clean_blocks(blocks: Iterable[Block]) -> Iterable[Block]:
    for block in blocks:
        text = clean(block.text).strip("\n") if block.kind == "code" else clean(block.text).strip()
        if any(not c.isspace() for c in text):
            yield replace(
                block,
                text=text,
                header=_optional(block.header),
                question=_optional(block.question),
                answer=_optional(block.answer),
            )


def _optional(text: str | None) -> str | None:
    return None if text is None else clean(text).strip() or None
