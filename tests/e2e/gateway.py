"""Asking the backend that has nothing but an upstream behind it."""

from __future__ import annotations

import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.e2e.backend import PATIENCE, BackendProcess

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


def asking(running: BackendProcess, body: Any, **headers: str) -> socket.socket:
    """A connection on which a chat completion was asked for, and nothing read."""
    address, content = urlsplit(running.url), json.dumps(body).encode()
    fields = {"host": address.netloc, "content-type": "application/json", **headers}
    fields["content-length"] = str(len(content))
    lines = ["POST /v1/chat/completions HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items())]
    client = socket.create_connection((address.hostname, address.port), timeout=PATIENCE)
    client.sendall("\r\n".join([*lines, "", ""]).encode() + content)
    return client


def statuses(running: BackendProcess, request_id: str) -> list[int]:
    """How the requests of this id ended: each is logged once it is over, and one is waited for."""
    deadline = time.monotonic() + PATIENCE
    while True:
        whole = running.output().rpartition("\n")[0].splitlines()  # the last may be half written
        lines = [json.loads(one) for one in whole if one.startswith("{")]
        own = [one for one in lines if one.get("id") == request_id]
        found = [one["status"] for one in own if one["logger"] == "rag_backend.requests"]
        if found:
            return found
        assert time.monotonic() < deadline, running.output()
        time.sleep(0.02)


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
