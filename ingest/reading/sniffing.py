"""What a file is by its content; its name only decides between formats of plain characters."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from ingest.errors import UnreadableFile
from ingest.reading.formats import FORMATS, by_suffix, suffix_of

_HEAD = 4096
_MEMBERS = {
    "word/document.xml": "docx",
    "ppt/presentation.xml": "pptx",
    "xl/workbook.xml": "xlsx",
    "META-INF/container.xml": "epub",
}
_HTML = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html[\s>])", re.I | re.S
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SAVE_AS = "open it in its program and save it as PDF, DOCX, XLSX or text"
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"{\\rtf", "an RTF document", _SAVE_AS),
    (b"%!PS", "a PostScript file", "convert it to PDF"),
    (b"\x89PNG", "an image", "run text recognition (OCR) and give the text"),
    (b"\xff\xd8\xff", "an image", "run text recognition (OCR) and give the text"),
    (b"GIF8", "an image", "run text recognition (OCR) and give the text"),
    (b"II*\x00", "an image", "run text recognition (OCR) and give the text"),
    (b"MM\x00*", "an image", "run text recognition (OCR) and give the text"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"\x7fELF", "a program", "give a document"),
    (b"MZ\x90", "a program", "give a document"),
    (b"SQLite format 3", "a database", "export it as CSV"),
    (b"OggS", "a sound file", "give a transcript"),
    (b"ID3", "a sound file", "give a transcript"),
    (b"RIFF", "a sound, image or video file", "give its text"),
)


def sniff(path: Path, name: str) -> str:
    """The key in `FORMATS` to read the file by.

    Raises:
        UnreadableFile: empty, of a kind that cannot be read, or not what its name says.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    blank = not head.strip(b"\x00 \t\r\n\x0b\x0c\xef\xbb\xbf")
    if blank and path.stat().st_size <= _HEAD:
        raise UnreadableFile(f"{name} contains no text.")
    promised = by_suffix(name)
    if _is_pdf(head, promised):
        return "pdf"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _in_zip(path, name)
    if head.startswith(_OLE):
        raise _ole(path, name)
    for magic, what, remedy in _FOREIGN:
        if head.startswith(magic):
            raise UnreadableFile(f"{name} is {what}; {remedy}.", "unsupported_file")
    if head[4:8] == b"ftyp":
        raise UnreadableFile(f"{name} is a video; give a transcript.", "unsupported_file")
    return _among_texts(head, name, promised)


def _is_pdf(head: bytes, promised: str | None) -> bool:
    # Readers accept junk before the mark; a text that merely speaks of it has another name.
    return head.lstrip().startswith(b"%PDF-") or (promised == "pdf" and b"%PDF-" in head[:1024])


def _in_zip(path: Path, name: str) -> str:
    promised = by_suffix(name)
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as exc:
        what = FORMATS[promised].name if promised else "a ZIP archive"
        raise UnreadableFile(
            f"{name} is damaged: it begins like {what} but cannot be opened; get a whole copy."
        ) from exc
    for member, kind in _MEMBERS.items():
        if member in members:
            return kind
    if "content.xml" in members and "mimetype" in members:
        raise UnreadableFile(
            f"{name} is an OpenDocument file; save it as DOCX, XLSX, PPTX or PDF.",
            "unsupported_file",
        )
    if "xl/workbook.bin" in members:
        raise UnreadableFile(
            f"{name} is a binary Excel workbook; save it as XLSX.", "unsupported_file"
        )
    if promised and not FORMATS[promised].textual:
        raise UnreadableFile(
            f"{name} is not {FORMATS[promised].name}: it is a ZIP archive without a document in it."
        )
    raise UnreadableFile(
        f"{name} is a ZIP archive; unpack it and give the files in it.", "unsupported_file"
    )


def _ole(path: Path, name: str) -> UnreadableFile:
    """Microsoft's old container: an encrypted modern document, or a document of before 2007."""
    with path.open("rb") as file:
        data = file.read(8 * 1024 * 1024)
    if "EncryptedPackage".encode("utf-16-le") in data:
        return UnreadableFile(
            f"{name} is protected by a password; save a copy without the password."
        )
    return UnreadableFile(
        f"{name} is in an Office format of before 2007; save it as DOCX, XLSX, PPTX or PDF.",
        "unsupported_file",
    )


def _among_texts(head: bytes, name: str, promised: str | None) -> str:
    if promised != "markdown" and _HTML.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "html"
    if promised is None:
        return "text"
    if FORMATS[promised].textual:
        return promised
    if b"\x00" in head or sum(byte > 0x7F for byte in head) > 0.3 * len(head):
        raise UnreadableFile(
            f"{name} is not {FORMATS[promised].name}, or it is damaged; get a whole copy."
        )
    raise UnreadableFile(
        f"{name} is not {FORMATS[promised].name}: it looks like plain text; "
        f"rename it from {suffix_of(name)} to .txt."
    )
