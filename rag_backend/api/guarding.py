"""Who may ask: bearer keys where there are any, and no web page of a stranger's in any case."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers

from rag_backend.errors import Forbidden, RAGError, Unauthorized

_OPEN_PATHS = ("/", "/health", "/health/ready", "/docs", "/openapi.json")
_OPEN_FOLDER = "/static-offline-docs/"
_LAN_SUFFIXES = (".localhost", ".local", ".lan", ".home.arpa", ".internal", ".intranet", ".test")


class Guard:
    """Decides from the path and the headers, before anything is read."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def refusal(self, path: str, headers: Headers) -> RAGError | None:
        """Why the request is refused; None where it is not."""
        if not self._keys:
            return _foreign_name(headers.get("host", ""))
        if path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER):
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        sent = token.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        # Every key is compared, so that the time taken says nothing about them.
        matches = [hmac.compare_digest(sent, key) for key in self._keys]
        if any(matches):
            return None
        return Unauthorized(
            "This backend needs an API key: send one of API_KEYS as `Authorization: Bearer …`."
        )


def _foreign_name(host: str) -> RAGError | None:
    """Refuse a public name where there is no key.

    Any web page that a colleague visits can point a name of its own at this server's address (DNS
    rebinding) and then read answers in the browser. It cannot do that with an address, nor with a
    name that only the LAN knows.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower().rstrip(".")
    if "." not in name or name.endswith(_LAN_SUFFIXES) or _is_address(name):
        return None
    return Forbidden(
        f"Without API_KEYS this backend answers to addresses and LAN names only, not to {name!r}: "
        "set API_KEYS, or use its address."
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
