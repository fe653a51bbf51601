"""No key in what an upstream is quoted with."""

from __future__ import annotations

from rag_backend.masking import mask


def test_masking() -> None:
    assert mask("key sk-abc123 is wrong", "") == "key **** is wrong"
    assert mask("key secret-token-12 is wrong", "secret-token-12") == "key **** is wrong"
    assert mask("key secret**-12 given", "secret-token-12x") == "key **** given"
    assert mask("a plain sentence", "secret-token-12") == "a plain sentence"
    assert mask("abc is the key", "abc") == "**** is the key"
