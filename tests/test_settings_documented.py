"""Every setting is in `.env.example` and in both READMEs, with its default, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ingest.settings import ClientSettings, documented
from ingest.settings import load_settings as load_client_settings
from llm_offline.settings import Settings as OfflineSettings
from llm_offline.settings import variable
from rag_backend.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
_ROW = re.compile(r"^\| *`([A-Z][A-Z0-9_]+)` *\|([^|]*)\|(.+)\|$")
_ENTRY = re.compile(r"^# ?([A-Z][A-Z0-9_]+)=(.*)$")


def shown(value: Any) -> str:
    """A default as a person writes it into a file; "" for none."""
    if value in (None, ()):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings() -> dict[str, tuple[str, str]]:
    """{variable: (default, description)} of all three packages."""
    backend = {
        n.upper(): (shown(f.default), f.description) for n, f in Settings.model_fields.items()
    }
    offline = {
        variable(n): (shown(f.default), f.description)
        for n, f in OfflineSettings.model_fields.items()
    }
    client = {name: ("", text) for name, text in documented()}
    return {name: (d, text or "") for name, (d, text) in (backend | offline | client).items()}


def table(path: Path) -> dict[str, str]:
    """{variable: default} of a README's rows `| NAME | default | meaning |`."""
    rows = [_ROW.match(line) for line in path.read_text("utf-8").splitlines()]
    listed = [(row[1], row[2].strip().strip("`").strip()) for row in rows if row]
    assert len(listed) == len(dict(listed)), f"{path.name} has a variable twice"
    return dict(listed)


def test_every_setting_has_a_description() -> None:
    assert not [name for name, (_, text) in settings().items() if not text or "\n" in text]


def test_the_example_file() -> None:
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    entries = {
        match[1]: (match[2], before.removeprefix("# "))
        for before, line in zip(["", *lines], lines, strict=False)
        if (match := _ENTRY.match(line))
    }
    assert entries == settings()
    assert all(line.startswith("#") or not line for line in lines), (
        "copied as it is, it sets nothing"
    )


@pytest.mark.parametrize("name", ["README.md", "README.vi.md"])
def test_the_tables(name: str) -> None:
    path = ROOT / name
    if not path.is_file():
        pytest.skip(f"{name} is not written yet")
    assert table(path) == {name: default for name, (default, _) in settings().items()}


def test_the_client_has_no_defaults_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_client_settings(environment={}) == ClientSettings()
    assert [getattr(ClientSettings(), name) for name in ("url", "api_key")] == [None, None]


def test_the_defaults_as_written_are_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever takes every # away gets what they had before."""
    for name in settings():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    plain, offline = Settings(), OfflineSettings()
    text = (ROOT / ".env.example").read_text("utf-8")
    (tmp_path / ".env").write_text(re.sub(r"(?m)^#(?=[A-Z][A-Z0-9_]+=)", "", text), "utf-8")
    assert Settings() == plain
    assert OfflineSettings() == offline
