"""Folding a stream."""

from __future__ import annotations

import pytest

from rag_backend.errors import UpstreamBroken
from rag_backend.llm.complete import complete, fold
from rag_backend.llm.provider import Chunk
from tests.rag_backend.llm.support import ASK, ROLE, Scripted, delta, finish

HEAD = {"id": "chatcmpl-1", "created": 7, "model": "m", "provider": "p"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


async def test_text() -> None:
    annotation = {"type": "url_citation", "url_citation": {"title": "a"}}
    script = Scripted(
        [
            {**HEAD, **ROLE},
            {**HEAD, **delta(content="Twelve ")},
            {**HEAD, **delta(content="days.", annotations=[annotation])},
            {**HEAD, **finish("length")},
            {**HEAD, "choices": [], "usage": USAGE},
        ]
    )
    assert await complete(script, ASK) == {
        **HEAD,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Twelve days.",
                    "refusal": None,
                    "annotations": [annotation],
                },
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": USAGE,
        "citations": [],
    }


async def test_tool_calls() -> None:
    parts = [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x":'}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": " 1}"}},
    ]
    script = Scripted([ROLE, *(delta(tool_calls=[part]) for part in parts), finish("tool_calls")])
    (choice,) = (await complete(script, ASK))["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


async def test_an_empty_answer_is_an_answer() -> None:
    completion = await complete(Scripted([finish()]), ASK)
    assert completion["choices"][0]["message"]["content"] == ""
    assert completion["usage"] is None


async def test_an_unfinished_answer_is_an_error() -> None:
    with pytest.raises(UpstreamBroken):
        await complete(Scripted([ROLE, delta(content="Twel")]), ASK)


async def test_logprobs_are_joined_and_citations_taken_over() -> None:
    def spoken(token: str) -> Chunk:
        chunk = delta(content=token)
        chunk["choices"][0]["logprobs"] = {"content": [{"token": token}], "refusal": None}
        return chunk

    citations = [{"index": 1, "quote": "Twelve days."}]
    last = {**delta(content="", annotations=[]), "citations": citations}
    completion = await fold(
        Scripted([spoken("Twelve"), spoken(" days"), last, finish()]).stream(ASK)
    )
    assert completion["choices"][0]["logprobs"] == {
        "content": [{"token": "Twelve"}, {"token": " days"}],
        "refusal": None,
    }
    assert completion["citations"] == citations
