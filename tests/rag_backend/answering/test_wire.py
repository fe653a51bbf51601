"""The one shape of every chunk."""

from __future__ import annotations

from rag_backend.answering.wire import ChunkWriter, without_empty


def test_every_chunk_has_the_same_head() -> None:
    writer = ChunkWriter("documents")
    first = writer.delta({"content": "a"})
    writer.model, writer.provider = "tiny", "local"
    chunks = [
        writer.delta({}, "stop"),
        writer.citations("", []),
        writer.usage({"total_tokens": 1}),
    ]
    assert (first["model"], first["provider"]) == ("documents", "documents")
    assert {(c["id"], c["object"], c["created"]) for c in [first, *chunks]} == {
        (first["id"], "chat.completion.chunk", first["created"])
    }
    assert {(c["model"], c["provider"]) for c in chunks} == {("tiny", "local")}
    assert first["id"].startswith("chatcmpl-")


def test_choices() -> None:
    writer = ChunkWriter("x")
    (choice,) = writer.delta({"content": "a"}, "length", {"content": []})["choices"]
    assert choice == {
        "index": 0,
        "delta": {"content": "a"},
        "logprobs": {"content": []},
        "finish_reason": "length",
    }
    assert writer.usage({"total_tokens": 1})["choices"] == []


def test_a_delta_that_says_nothing() -> None:
    delta = {"role": "assistant", "content": "", "tool_calls": [], "refusal": None}
    assert without_empty(delta) == {}
    assert without_empty({"content": " ", "tool_calls": [{}]}) == {
        "content": " ",
        "tool_calls": [{}],
    }
