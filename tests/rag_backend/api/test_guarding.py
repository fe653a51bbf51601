"""Who may ask."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from rag_backend.api.guarding import Guard
from rag_backend.errors import Forbidden, Unauthorized


@pytest.mark.parametrize(
    "host",
    ["localhost:30000", "127.0.0.1:30000", "[::1]:30000", "192.168.1.20", "rag", "rag.local:30000"],
)
def test_addresses_and_lan_names_need_no_key(host: str) -> None:
    assert Guard([]).refusal("/v1/models", Headers({"host": host})) is None


@pytest.mark.parametrize(
    "host", ["evil.example.com", "localhost.evil.com:30000", "127.0.0.1.nip.io"]
)
def test_a_public_name_does(host: str) -> None:
    refused = Guard([]).refusal("/v1/models", Headers({"host": host}))
    assert isinstance(refused, Forbidden)
    assert "API_KEYS" in str(refused)
    allowed = Headers({"host": host, "authorization": "Bearer sesame"})
    assert Guard(["sesame"]).refusal("/v1/models", allowed) is None


@pytest.mark.parametrize("sent", ["", "Bearer", "Bearer wrong", "Basic sesame", "Bearer ÿ"])
def test_a_wrong_key_is_refused(sent: str) -> None:
    headers = Headers(raw=[(b"authorization", sent.encode("latin-1"))])
    assert isinstance(Guard(["sesame"]).refusal("/v1/models", headers), Unauthorized)


@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/static-offline-docs/swagger-ui.css"])
def test_what_holds_no_document_is_open(path: str) -> None:
    assert Guard(["sesame"]).refusal(path, Headers({})) is None
