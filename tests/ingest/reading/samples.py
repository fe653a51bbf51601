"""Files made on the spot, in every format, English and Vietnamese."""

from __future__ import annotations

import io
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import docx
import openpyxl
import pptx
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

VIETNAMESE = (
    "Điều 5. Tốc độ tối đa trong khu vực đông dân cư là 50 km/h. Người điều khiển xe máy phải đội "
    "mũ bảo hiểm. Mức phạt từ 400.000 đồng đến 600.000 đồng."
)
_FONTS = ("DejaVuSans.ttf", "dejavu/DejaVuSans.ttf", "truetype/dejavu/DejaVuSans.ttf")


def vietnamese_font() -> Path | None:
    """A TrueType font with Vietnamese letters, where the system has one."""
    for folder in (Path("/usr/share/fonts"), Path("C:/Windows/Fonts"), Path("/Library/Fonts")):
        for name in (*_FONTS, "arial.ttf", "Arial.ttf"):
            if (folder / name).is_file():
                return folder / name
    return None


def cp1258(text: str) -> bytes:
    """What Windows wrote before Unicode: base letters, tones as combining marks after them."""
    out = b""
    for letter in unicodedata.normalize("NFC", text):
        try:
            out += letter.encode("cp1258")
        except UnicodeEncodeError:
            marks = unicodedata.normalize("NFD", letter)
            tones = "".join(c for c in marks if c in "\u0300\u0301\u0303\u0309\u0323")
            base = "".join(c for c in marks if c not in tones)
            out += unicodedata.normalize("NFC", base).encode("cp1258") + tones.encode("cp1258")
    return out


def docx_bytes(build: Callable[[docx.document.Document], None]) -> bytes:
    """A Word document that `build` fills."""
    document = docx.Document()
    build(document)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def pptx_bytes(build: Callable[[pptx.presentation.Presentation], None]) -> bytes:
    """A presentation that `build` fills."""
    presentation = pptx.Presentation()
    build(presentation)
    out = io.BytesIO()
    presentation.save(out)
    return out.getvalue()


def xlsx_bytes(sheets: dict[str, Sequence[Sequence[object]]]) -> bytes:
    """A workbook with these rows in these sheets."""
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for title, rows in sheets.items():
        sheet = workbook.create_sheet(title)
        for row in rows:
            sheet.append(list(row))
    out = io.BytesIO()
    workbook.save(out)
    return out.getvalue()


def pdf_bytes(
    pages: Sequence[Sequence[tuple[float, float, str]]],
    *,
    font: Path | None = None,
    password: str | None = None,
    sizes: dict[str, float] | None = None,
) -> bytes:
    """A PDF with (x, y from the top, text) lines on each page; `sizes` for texts not in 11 pt."""
    out = io.BytesIO()
    encrypt = StandardEncryption(password, canPrint=0) if password else None
    canvas = Canvas(out, pagesize=(595, 842), encrypt=encrypt)
    name = "Helvetica"
    if font:
        pdfmetrics.registerFont(TTFont("Sample", str(font)))
        name = "Sample"
    for page in pages:
        for x, y, text in page:
            canvas.setFont(name, (sizes or {}).get(text, 11))
            canvas.drawString(x, 842 - y, text)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def zip_bytes(members: dict[str, bytes | str]) -> bytes:
    """A ZIP archive of these members, compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def epub_bytes(chapters: dict[str, str], extra: dict[str, bytes | str] | None = None) -> bytes:
    """A book of these chapters (file name to body) in this order, with a table of contents."""
    items = "".join(
        f'<item id="c{i}" href="{name}" media-type="application/xhtml+xml"/>'
        for i, name in enumerate(chapters)
    )
    spine = "".join(f'<itemref idref="c{i}"/>' for i in range(len(chapters)))
    members: dict[str, bytes | str] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": (
            '<?xml version="1.0"?><container version="1.0" '
            'xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
            'full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles>'
            "</container>"
        ),
        "OEBPS/book.opf": (
            '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
            '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Sổ tay</dc:title>'
            f'</metadata><manifest><item id="nav" href="nav.xhtml" properties="nav"/>{items}'
            f'</manifest><spine><itemref idref="nav"/>{spine}</spine></package>'
        ),
        "OEBPS/nav.xhtml": "<html><body><h1>Contents</h1></body></html>",
    }
    for name, body in chapters.items():
        members[f"OEBPS/{name}"] = (
            '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html>'
            f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head>'
            f"<body>{body}</body></html>"
        )
    return zip_bytes(members | (extra or {}))
