"""Dispatch by content, and what bad files get."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from ingest.errors import UnreadableFile
from ingest.reading.formats import FORMATS, SUFFIXES, by_suffix
from ingest.reading.registry import read
from tests.ingest.reading import samples
from tests.ingest.reading.conftest import ReadBytes, Refusal

HEAVY = ("lxml", "openpyxl", "pptx", "mammoth", "pypdfium2", "markdown_it", "torch", "pandas")


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_reading_text_imports_no_parser(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Hello there.", encoding="utf-8")
    statement = (
        "from pathlib import Path\nfrom ingest.reading.registry import read\n"
        f"read(Path({str(path)!r}), 'a.txt')"
    )
    assert loaded_by(statement).isdisjoint(HEAVY)


def test_suffixes_are_known_without_any_third_party_import() -> None:
    loaded = loaded_by("from ingest.reading.formats import SUFFIXES")
    assert loaded.isdisjoint({*HEAVY, "charset_normalizer", "defusedxml"})


def test_every_suffix_belongs_to_one_format() -> None:
    listed = [suffix for row in FORMATS.values() for suffix in row.suffixes]
    assert len(listed) == len(set(listed)) == len(SUFFIXES)
    assert by_suffix("Báo cáo.DOCX") == "docx"
    assert by_suffix("no-extension") is None
    assert by_suffix(".txt") is None


def test_content_decides_against_the_name(read_bytes: ReadBytes) -> None:
    pdf = samples.pdf_bytes([[(72, 72, "Paid leave is fourteen days.")]])
    for name in ("leave.docx", "leave.txt", "leave"):
        assert read_bytes(pdf, name).blocks[0].page == 1
    word = samples.docx_bytes(lambda d: d.add_heading("Nghỉ phép", 1))
    assert read_bytes(word, "leave.pdf").blocks[0].kind == "heading"
    page = b"<!DOCTYPE html><html><body><h1>Leave</h1><p>14 days</p></body></html>"
    assert read_bytes(page, "leave.txt").blocks[0].kind == "heading"


def test_unknown_extension_with_text_is_read_as_text(read_bytes: ReadBytes) -> None:
    assert read_bytes("Nghỉ phép 14 ngày.".encode(), "notes.rst").blocks[0].text.startswith("Nghỉ")


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.xlsx", "a.epub"])
def test_text_named_as_a_binary_format_says_what_it_is(refusal: Refusal, name: str) -> None:
    assert "looks like plain text" in str(refusal(b"Just some words, really.", name))


@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.docx", "a.html", "a.json", "a.csv", "a.md"])
@pytest.mark.parametrize("data", [b"", b" \r\n\t \n", b"\xef\xbb\xbf\n"])
def test_nothing_in_it(refusal: Refusal, data: bytes, name: str) -> None:
    assert "contains no text" in str(refusal(data, name))


def test_only_invisible_characters(refusal: Refusal) -> None:
    assert "contains no text" in str(refusal("\u200b\u00a0\ufeff\n".encode() * 3, "a.txt"))
    assert "contains no text" in str(refusal(b"\n" * 10_000, "a.md"))
    assert "contains no text" in str(refusal(b"<html><body><img src=x></body></html>", "a.html"))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "image"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"{\\rtf1 hello}", "RTF"),
        (b"\x7fELF" + bytes(100), "program"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(50), "video"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "before 2007"),
    ],
)
def test_foreign_kinds_are_named(refusal: Refusal, data: bytes, word: str) -> None:
    error = refusal(data, "a.dat")
    assert word in str(error)
    assert error.code == "unsupported_file"


def test_password_protected_office(refusal: Refusal) -> None:
    data = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512) + "EncryptedPackage".encode("utf-16-le")
    error = refusal(data, "hợp đồng.docx")
    assert "password" in str(error)
    assert error.code == "invalid_file"


def test_zip_archives(refusal: Refusal) -> None:
    plain = samples.zip_bytes({"a.txt": "hello"})
    assert "unpack" in str(refusal(plain, "all.zip"))
    assert "without a document" in str(refusal(plain, "a.docx"))
    odt = samples.zip_bytes({"mimetype": "application/vnd.oasis", "content.xml": "<a/>"})
    assert "OpenDocument" in str(refusal(odt, "a.odt"))


@pytest.mark.parametrize("suffix", ["docx", "pptx", "xlsx", "epub", "pdf"])
@pytest.mark.parametrize("damage", ["cut", "scrambled"])
def test_damaged_files(refusal: Refusal, suffix: str, damage: str) -> None:
    whole = {
        "docx": lambda: samples.docx_bytes(lambda d: d.add_paragraph("Text. " * 500)),
        "pptx": lambda: samples.pptx_bytes(lambda p: None),
        "xlsx": lambda: samples.xlsx_bytes({"A": [["a", "b"], [1, 2]]}),
        "epub": lambda: samples.epub_bytes({"a.xhtml": "<p>Text</p>"}),
        "pdf": lambda: samples.pdf_bytes([[(72, 72, "Text")]]),
    }[suffix]()
    data = bytearray(whole[: len(whole) // 2])
    if damage == "scrambled":
        data[64:] = random.Random(1).randbytes(len(data) - 64)
    assert "damaged" in str(refusal(bytes(data), f"a.{suffix}"))


def test_random_bytes_behind_every_magic_never_escape(tmp_path: Path) -> None:
    generator = random.Random(7)
    magics = (b"", b"%PDF-1.7\n", b"PK\x03\x04", b"<html>", b"{", b"\xff\xfe", b"\xfe\xff")
    names = [f"a{suffix}" for suffix in sorted(SUFFIXES)]
    path = tmp_path / "x"
    for _ in range(150):
        path.write_bytes(generator.choice(magics) + generator.randbytes(generator.randrange(400)))
        try:
            document = read(path, generator.choice(names))
        except UnreadableFile:
            continue
        assert document.blocks


def test_missing_and_forbidden_paths(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"a\.txt cannot be opened") as caught:
        read(tmp_path / "nothing", "a.txt")
    assert caught.value.code == "server_error"
    with pytest.raises(UnreadableFile, match="cannot be opened"):
        read(tmp_path, "folder.txt")


def test_names_with_folders_and_nfd_reach_the_message_as_a_base_name(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"")
    name = "../" * 3 + unicodedata.normalize("NFD", "hợp đồng") + "x" * 300 + ".txt"
    with pytest.raises(UnreadableFile) as caught:
        read(path, name)
    assert ".." not in str(caught.value)
    assert os.sep not in str(caught.value)


def test_the_same_bytes_give_the_same_document(read_bytes: ReadBytes) -> None:
    data = samples.xlsx_bytes({"Giá": [["Món", "Giá"], ["Phở", 45000], ["Bún", 40000.5]]})
    assert read_bytes(data, "a.xlsx") == read_bytes(data, "a.xlsx")
