"""What a request's headers say."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from rag_backend.api.asking import asker, freshness


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("", "any"),
        ("max-age=3600", "any"),
        ("no-cache", "fresh"),
        ("No-Cache, max-age=0", "fresh"),
        ("max-age=0", "fresh"),
        ("no-store", "private"),
        ("no-cache,no-store", "private"),
        ("x-no-cache", "any"),
    ],
)
def test_freshness(sent: str, meant: str) -> None:
    assert freshness(Headers({"cache-control": sent} if sent else {})) == meant


def test_who_asks() -> None:
    sent = Headers({"authorization": "Bearer one"})
    assert asker(sent, keyed=True) == "one"
    assert asker(sent, keyed=False) == ""
    assert asker(Headers({}), keyed=True) == ""
