"""Questions that were asked before, on the long way and on the short one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_backend.settings import Settings
from tests.rag_backend.api.serving import HANDBOOK, fill, serving


def test_a_store_that_is_asked_only_what_is_kept_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        _env_file=None, data_dir=tmp_path, llm_provider="extractive", cache_url="memory://"
    )
    ask = {"messages": [{"role": "user", "content": "How many days of annual leave are there?"}]}
    with serving(settings) as running, running.http() as http:
        fill(running, {"handbook.md": HANDBOOK})
        used: list[str] = []
        monkeypatch.setattr(running.parts.library.expirer, "used", used.append)
        told = []
        for _ in ("pipeline", "long way", "short way"):
            used.clear()
            answer = http.post("/v1/chat/completions", json=ask)
            told.append((answer.status_code, answer.headers["x-cache"], bool(used)))
        assert told == [(200, "miss", True), (200, "hit", True), (200, "hit", True)]
