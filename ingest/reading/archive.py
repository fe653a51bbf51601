"""Office and EPUB files are ZIP archives of XML: what must hold before a parser may see one."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import ParseError, iterparse  # type: ignore[import-untyped]

from ingest.errors import UnreadableFile

MOST_BYTES = 1024**3
MOST_MEMBERS = 20_000
# Office XML shrinks 5- to 50-fold; a bomb shrinks about a thousandfold. Small files may do as they
# like: a sheet of one repeated value is no attack.
MOST_RATIO = 200
RATIO_MATTERS_FROM = 64 * 1024**2


def check(path: Path, name: str, *, dtd_allowed: bool = False) -> None:
    """Refuse a damaged, encrypted or bomb-like archive, and XML that declares entities.

    Raises:
        UnreadableFile: for each of these.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, path.stat().st_size, name)
            if not dtd_allowed:
                _check_declarations(archive, name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as exc:
        raise UnreadableFile(f"{name} is damaged: {_reason(exc)}; get a whole copy.") from exc


def _reason(exc: Exception) -> str:
    return "its ZIP archive is broken" if isinstance(exc, zipfile.BadZipFile) else "it is cut off"


def _check_sizes(archive: zipfile.ZipFile, packed: int, name: str) -> None:
    # `zipfile` reads no more of a member than it declares, so the declared sizes can be trusted.
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    bomb = total > RATIO_MATTERS_FROM and total > MOST_RATIO * packed
    if total > MOST_BYTES or bomb or len(members) > MOST_MEMBERS:
        raise UnreadableFile(
            f"{name} unpacks to {total / 1024**2:,.0f} MiB in {len(members):,} parts, "
            "like a zip bomb; it is not opened. Split the document if it is genuine."
        )
    if any(member.flag_bits & 1 for member in members):
        raise UnreadableFile(
            f"{name} is protected by a password; save a copy without the password."
        )


def _check_declarations(archive: zipfile.ZipFile, name: str) -> None:
    """Office XML has no document type declaration; one is there only to declare bombs."""
    for member in archive.infolist():
        if not member.filename.lower().endswith((".xml", ".rels")):
            continue
        with archive.open(member) as file:
            try:
                # A declaration comes before the first element, so one element is enough.
                next(iter(iterparse(file, events=("start",), forbid_dtd=True)), None)
            except DefusedXmlException as exc:
                raise UnreadableFile(
                    f"{name} declares XML entities, which no document of this kind does; "
                    "it is not opened."
                ) from exc
            except ParseError:
                continue  # the reader says what is wrong where it matters
