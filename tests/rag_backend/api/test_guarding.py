"""Who may ask."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from rag_backend.api.guarding import Guard
from rag_backend.errors import Forbidden, Unauthorized
from rag_backend.keys import ANYBODY


@pytest.mark.parametrize(
    "host",
    ["localhost:30000", "127.0.0.1:30000", "[::1]:30000", "192.168.1.20", "rag", "rag.local:30000"],
)
def test_addresses_and_lan_names_need_no_key(host: str) -> None:
    assert Guard([]).admit("/v1/models", Headers({"host": host})) is ANYBODY


@pytest.mark.parametrize(
    "host", ["evil.example.com", "localhost.evil.com:30000", "127.0.0.1.nip.io"]
)
def test_a_public_name_does(host: str) -> None:
    with pytest.raises(Forbidden, match="API_KEYS"):
        Guard([]).admit("/v1/models", Headers({"host": host}))
    allowed = Headers({"host": host, "authorization": "Bearer sesame"})
    assert not Guard(["sesame"]).admit("/v1/models", allowed).bound


@pytest.mark.parametrize("sent", ["", "Bearer", "Bearer wrong", "Basic sesame", "Bearer ÿ"])
def test_a_wrong_key_is_refused(sent: str) -> None:
    headers = Headers(raw=[(b"authorization", sent.encode("latin-1"))])
    with pytest.raises(Unauthorized):
        Guard(["sesame"]).admit("/v1/models", headers)


@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/static-offline-docs/swagger-ui.css"])
def test_what_holds_no_document_is_open(path: str) -> None:
    caller = Guard(["sesame"]).admit(path, Headers({}))
    assert not caller.may("read", "default"), "and who asks without a key may do nothing else"
