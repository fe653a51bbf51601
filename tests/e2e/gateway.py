"""Asking the backend that has nothing but an upstream behind it."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.e2e.backend import BackendProcess

UPSTREAM_KEY = "sk-e2e-secret-0123456789"
LIMITS = {
    "LLM_CONNECT_TIMEOUT": "0.5",
    "LLM_FIRST_TOKEN_TIMEOUT": "1",
    "LLM_IDLE_TIMEOUT": "1",
    "LLM_TOTAL_TIMEOUT": "5",
    "LLM_MAX_ATTEMPTS": "2",
}
ATTEMPTS = int(LIMITS["LLM_MAX_ATTEMPTS"])


def messages() -> list[Any]:
    """A conversation that has nothing to do with any document."""
    return [{"role": "user", "content": "Tell me something."}]


def ask(gateway: BackendProcess, **more: Any) -> httpx.Response:
    """A chat completion without any SDK in between."""
    body = {"messages": messages(), **more}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60)


def failure(answer: httpx.Response) -> dict[str, Any]:
    """The error of a response, whether it is the whole of it or a stream's last event."""
    assert UPSTREAM_KEY not in answer.text
    if answer.headers["content-type"].startswith("application/json"):
        assert answer.headers["x-should-retry"] == "false"
        body = answer.json()
    else:
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        body = json.loads(events[-2])
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
