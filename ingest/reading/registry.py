"""The one entrance to reading: a file in, a document out."""

from __future__ import annotations

import importlib
import logging
import warnings
from pathlib import Path
from typing import Protocol, cast

from ingest.document import Document
from ingest.errors import UnreadableFile
from ingest.reading.cleaning import clean_document
from ingest.reading.formats import FORMATS, SUFFIXES
from ingest.reading.legal import mark_headings
from ingest.reading.sniffing import sniff

__all__ = ["SUFFIXES", "read"]

log = logging.getLogger(__name__)


class Reader(Protocol):
    """What a module named in `FORMATS` offers."""

    def read(self, path: Path, name: str) -> Document:
        """The document at `path`; `name` is for messages and for choosing between variants."""


def read(path: Path, filename: str) -> Document:
    """The file's text with its places; never empty.

    `filename` is the name the user knows; `path` is where the bytes lie (its own name is not
    looked at).

    Raises:
        UnreadableFile: one sentence that says why not, and what to do.
    """
    name = Path(filename.replace("\\", "/")).name or "the file"
    try:
        kind = sniff(path, name)
    except OSError as exc:
        raise UnreadableFile(f"{name} cannot be opened: {exc.strerror}.", "server_error") from exc
    document = clean_document(_read_as(kind, path, name))
    if not document.blocks:
        raise UnreadableFile(f"{name} contains no text.")
    return mark_headings(document)


def _read_as(kind: str, path: Path, name: str) -> Document:
    row = FORMATS[kind]
    reader = cast(Reader, importlib.import_module(f"ingest.reading.{row.reader}"))
    try:
        with warnings.catch_warnings():
            # Parsers warn of oddities that the user can do nothing about.
            warnings.simplefilter("ignore")
            return reader.read(path, name)
    except UnreadableFile:
        raise
    except MemoryError as exc:
        raise UnreadableFile(f"{name} needs more memory than is allowed; split it.") from exc
    except RecursionError as exc:
        raise UnreadableFile(f"{name} is nested too deeply to be read; flatten it.") from exc
    except Exception as exc:  # parsers of hostile bytes raise anything
        log.debug("reading %s as %s failed", name, kind, exc_info=True)
        raise UnreadableFile(
            f"{name} is not {row.name} that can be read: it is damaged; "
            "open it in its program, save it again and retry."
        ) from exc
