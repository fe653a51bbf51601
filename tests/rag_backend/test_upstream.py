"""Addresses and secrets of upstreams; failures are tested where they are raised."""

from __future__ import annotations

import pytest

from rag_backend.errors import StartError
from rag_backend.upstream import check_access, shown_url, with_version


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://a:8001", "http://a:8001/v1"),
        ("http://a:8001/", "http://a:8001/v1"),
        ("https://a/openai/v1", "https://a/openai/v1"),
        ("http://a/api/", "http://a/api"),
        ("http://a:8001/v1/chat/completions", "http://a:8001/v1"),
        ("https://a/openai/v1/embeddings/", "https://a/openai/v1"),
        ("http://a/chat/completions", "http://a/v1"),
    ],
)
def test_a_url_becomes_the_base_of_an_api(url: str, base: str) -> None:
    assert with_version(url) == base


def test_a_url_is_shown_without_a_password() -> None:
    assert shown_url("http://me:pw@a:1/v1?key=x") == "http://a:1/v1"


def test_openai_answers_nobody_without_a_key() -> None:
    urls = ("http://a:8001/v1", "https://api.openai.com/v1")
    with pytest.raises(StartError, match=r"EMBEDDING_URL is OpenAI's.*set EMBEDDING_API_KEY"):
        check_access(urls, "", "EMBEDDING_URL", "EMBEDDING_API_KEY")
    check_access(urls, "sk-abc", "EMBEDDING_URL", "EMBEDDING_API_KEY")
    check_access(("https://notopenai.com/v1",), "", "EMBEDDING_URL", "EMBEDDING_API_KEY")


def test_an_address_that_no_library_takes() -> None:
    with pytest.raises(StartError, match=r"EMBEDDING_URL is not a URL that can be used: .*IDNA"):
        check_access(("http://a☃:8001/v1",), "", "EMBEDDING_URL", "EMBEDDING_API_KEY")
