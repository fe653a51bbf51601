"""Who may ask: bearer keys where there are any, and no web page of a stranger's in any case."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.datastructures import Headers

from rag_backend.errors import Forbidden, Unauthorized
from rag_backend.keys import ANYBODY, Caller, KeyRing

_OPEN_PATHS = ("/", "/health", "/health/ready", "/docs", "/openapi.json")
_OPEN_FOLDER = "/static-offline-docs/"
_NOBODY = Caller(grants={})
_LAN_SUFFIXES = (".localhost", ".local", ".lan", ".home.arpa", ".internal", ".intranet", ".test")


class Guard:
    """Decides from the path and the headers, before anything is read."""

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys` as in API_KEYS; raises ValueError where one is malformed."""
        self._ring = KeyRing(keys)

    def admit(self, path: str, headers: Headers) -> Caller:
        """Who asks; raises Unauthorized or Forbidden."""
        if not self._ring:
            return _known_name(headers.get("host", ""))
        is_open = path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        sent = token.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        caller = self._ring.caller(sent)
        if caller is None and is_open:
            return _NOBODY
        if caller is None:
            raise Unauthorized(
                "This backend needs an API key: send one of API_KEYS as `Authorization: Bearer …`."
            )
        return caller


@lru_cache(maxsize=64)
def _known_name(host: str) -> Caller:
    """Refuse a public name where there is no key.

    Any web page that a colleague visits can point a name of its own at this server's address (DNS
    rebinding) and then read answers in the browser. It cannot do that with an address, nor with a
    name that only the LAN knows.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower().rstrip(".")
    if "." not in name or name.endswith(_LAN_SUFFIXES) or _is_address(name):
        return ANYBODY
    raise Forbidden(
        f"Without API_KEYS this backend answers to addresses and LAN names only, not to {name!r}: "
        "set API_KEYS, or use its address."
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
