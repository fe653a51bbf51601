"""Who can reach the backend, checked before it listens: not everybody unless somebody said so."""

from __future__ import annotations

import ipaddress
import socket

from rag_backend.errors import StartError
from rag_backend.settings import Settings

_IN_WORDS = "anyone-on-this-network"


def check_exposure(settings: Settings) -> None:
    """Raise StartError where strangers could read the documents by an oversight."""
    if settings.api_keys:
        return
    if "*" in settings.cors_origins:
        raise StartError(
            "CORS_ORIGINS=* without API_KEYS would let every web page that somebody here opens "
            "read the documents: name the pages' origins, or set API_KEYS."
        )
    if settings.allow_without_keys is None and not _is_loopback(settings.host):
        raise StartError(
            f"HOST={settings.host} without API_KEYS would let anyone on this network read and "
            "change every document: set API_KEYS, or HOST=127.0.0.1, or, if that is what you want, "
            f"ALLOW_WITHOUT_KEYS={_IN_WORDS}."
        )


def _is_loopback(host: str) -> bool:
    """Whether every address of this name is this machine's own; names that are none count."""
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        return True  # it cannot be listened on, which `bind` says
    return all(
        ipaddress.ip_address(str(item[4][0]).partition("%")[0]).is_loopback for item in found
    )
