"""The binary examples can be rebuilt, and a rebuild alone changes nothing."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts.importing import imported

ROOT = Path(__file__).resolve().parents[2]
BINARY = {".pdf", ".docx", ".pptx", ".xlsx"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return imported("build_examples")


def test_same_text_gives_same_bytes(script: ModuleType, tmp_path: Path) -> None:
    if not script.FONT.is_file():
        pytest.skip("needs a font with Vietnamese letters: Debian's fonts-dejavu-core")
    first = {path.name: path.read_bytes() for path in script.build(tmp_path / "a")}
    second = {path.name: path.read_bytes() for path in script.build(tmp_path / "b")}
    assert first == second


def test_every_binary_example_comes_from_the_script(script: ModuleType, tmp_path: Path) -> None:
    if not script.FONT.is_file():
        pytest.skip("needs a font with Vietnamese letters: Debian's fonts-dejavu-core")
    made = {path.relative_to(tmp_path).as_posix() for path in script.build(tmp_path)}
    committed = {
        unicodedata.normalize("NFC", path.relative_to(ROOT / "examples").as_posix())
        for path in (ROOT / "examples").rglob("*")
        if path.suffix in BINARY
    }
    assert made == committed


def test_a_missing_font_is_one_line(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path), "--font", str(tmp_path / "none.ttf")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_question_names_an_example() -> None:
    lines = (ROOT / "tests/e2e/questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
    assert {question["language"] for question in questions} == {"en", "vi"}
    for question in questions:
        assert (ROOT / "examples" / question["file"]).is_file(), question["file"]
        assert question["must_contain"]
