"""A request that runs before, while and after something happens, and must not notice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx

COMPLETIONS = "/v1/completions"
# Greedy: what it says is known from when it was alone.
BODY: dict[str, Any] = {"prompt": "Người lao động", "temperature": 0, "max_tokens": 200}


@contextmanager
def bystander(url: str) -> Iterator[None]:
    """Runs while the body of the `with` does; then checks that it said what it says alone."""
    wanted = alone(url)
    with httpx.stream("POST", url + COMPLETIONS, json=BODY | {"stream": True}, timeout=90) as got:
        lines = got.iter_lines()
        first = next(lines)
        yield
        assert said([first, *lines]) == wanted


@cache
def alone(url: str) -> str:
    """What it says when nothing else runs."""
    answer = httpx.post(url + COMPLETIONS, json=BODY, timeout=90).json()
    text: str = answer["choices"][0]["text"]
    assert answer["usage"]["completion_tokens"] == BODY["max_tokens"]
    return text


def said(lines: list[str]) -> str:
    """The text of a stream of completions that ends well."""
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert not [chunk for chunk in chunks if "error" in chunk]
    assert chunks[-1]["choices"][0]["finish_reason"]
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def error_of(lines: list[str]) -> dict[str, Any]:
    """The error that a stream ends with."""
    events = [line for line in lines if line]
    assert events[-1] == "data: [DONE]"
    found: dict[str, Any] = json.loads(events[-2][6:])["error"]
    return found
