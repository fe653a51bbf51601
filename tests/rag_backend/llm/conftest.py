"""What the providers' tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rag_backend.settings import Settings
from tests.openai_server import OpenAIServer


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key and no URL of the developer's own reaches a test."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """A scripted upstream."""
    with OpenAIServer() as running:
        yield running
