"""Addresses and secrets of upstreams; failures are tested where they are raised."""

from __future__ import annotations

import pytest

from rag_backend.upstream import mask, shown_url, with_version


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://a:8001", "http://a:8001/v1"),
        ("http://a:8001/", "http://a:8001/v1"),
        ("https://a/openai/v1", "https://a/openai/v1"),
        ("http://a/api/", "http://a/api"),
    ],
)
def test_a_url_without_a_path_gets_a_version(url: str, base: str) -> None:
    assert with_version(url) == base


def test_a_url_is_shown_without_a_password() -> None:
    assert shown_url("http://me:pw@a:1/v1?key=x") == "http://a:1/v1"


def test_masking() -> None:
    assert mask("key sk-abc123 is wrong", "") == "key **** is wrong"
    assert mask("key secret-token-12 is wrong", "secret-token-12") == "key **** is wrong"
    assert mask("key secret**-12 given", "secret-token-12x") == "key **** given"
    assert mask("a plain sentence", "secret-token-12") == "a plain sentence"
    assert mask("abc is the key", "abc") == "**** is the key"
