"""What a model is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_offline.running import name_of
from llm_offline.settings import Settings


def _name(model: str) -> str:
    return name_of(Settings(_env_file=None, model=model))  # type: ignore[call-arg]


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert _name(str(tmp_path / "here")) == _name("here") == _name("./here") == "here"
    for no_path in ("acme/tiny", "a" * 5000, "~nobody-of-that-name/a", "a\0b"):
        assert _name(no_path) == no_path
    # Removed while it serves: nobody's requests should see another name.
    (tmp_path / "here").rmdir()
    assert _name(str(tmp_path / "here")) == "here"
