"""Who can reach a backend, checked before it listens."""

from __future__ import annotations

from typing import Any

import pytest

from rag_backend.errors import StartError
from rag_backend.exposure import check_exposure
from rag_backend.settings import Settings


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2", "no.such.name."])
def test_this_machine_alone_needs_nothing(host: str) -> None:
    check_exposure(settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.20", ""])
def test_a_network_needs_keys_or_words(host: str) -> None:
    with pytest.raises(StartError, match="anyone on this network") as caught:
        check_exposure(settings(host=host))
    assert "API_KEYS" in str(caught.value)
    check_exposure(settings(host=host, api_keys="sesame"))
    check_exposure(settings(host=host, allow_without_keys="anyone-on-this-network"))


def test_any_web_page_needs_keys() -> None:
    with pytest.raises(StartError, match="CORS_ORIGINS"):
        check_exposure(settings(cors_origins="*", allow_without_keys="anyone-on-this-network"))
    check_exposure(settings(cors_origins="*", api_keys="sesame"))
    check_exposure(settings(cors_origins="https://chat.example.org"))
