"""The formats that can be read, as data.

No third-party import here: the command line walks folders with it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """A row of the table.

    Attributes:
        name: What a person calls it, with its article, for messages: "a PDF".
        suffixes: Lower-case file name extensions, with the dot.
        reader: Module of this package with `read(path, name) -> Document`; imported on first use.
        textual: Plain characters, so the content alone rarely says which format it is.
    """

    name: str
    suffixes: tuple[str, ...]
    reader: str
    textual: bool = False


FORMATS: dict[str, Format] = {
    "text": Format("plain text", (".txt", ".text", ".log"), "plain", textual=True),
    "markdown": Format(
        "Markdown", (".md", ".markdown", ".mdown", ".mkd"), "markdown", textual=True
    ),
    "html": Format("an HTML page", (".html", ".htm", ".xhtml"), "html", textual=True),
    "pdf": Format("a PDF", (".pdf",), "pdf"),
    "docx": Format("a Word document", (".docx", ".docm"), "word"),
    "pptx": Format("a PowerPoint presentation", (".pptx", ".pptm", ".ppsx"), "slides"),
    "xlsx": Format("an Excel workbook", (".xlsx", ".xlsm"), "sheets"),
    "csv": Format("a table in CSV", (".csv", ".tsv"), "delimited", textual=True),
    "json": Format("JSON", (".json",), "structured", textual=True),
    "jsonl": Format("JSON Lines", (".jsonl", ".ndjson"), "structured", textual=True),
    "epub": Format("an EPUB book", (".epub",), "epub"),
}

SUFFIXES: frozenset[str] = frozenset(s for row in FORMATS.values() for s in row.suffixes)
"""Extensions of the files that a walk through a folder picks up."""


def by_suffix(filename: str) -> str | None:
    """The key in `FORMATS` that the file's name promises; None where it promises none."""
    suffix = suffix_of(filename)
    return next((key for key, row in FORMATS.items() if suffix in row.suffixes), None)


def suffix_of(filename: str) -> str:
    """Lower-case extension with its dot, or ""."""
    base = filename.replace("\\", "/").rpartition("/")[2]
    stem, dot, end = base.rpartition(".")
    return f".{end.lower()}" if dot and stem else ""
