"""API keys and what each of them may do.

An entry of API_KEYS is a key, which may do everything, or a key bound to vector stores:
`KEY=STORE:RIGHT`, several with `+`: `k1,k2=laws:read+handbook:write`. `write` includes `read`, a
store is given by name or id, and `*` is every store. What concerns the whole backend (metrics,
providers, rebuilding …) is left to keys that are bound to nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Right = Literal["read", "write"]

EVERY_STORE = "*"
_FORM = "KEY, KEY=STORE:read or KEY=STORE:read+OTHER:write, comma-separated"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as it matters.

    Attributes:
        id: A digest of the key, which names it where it must be told apart; "" without API_KEYS.
        grants: {store's name or id, or `*`: right}; None: everything is allowed.
    """

    id: str = ""
    grants: Mapping[str, Right] | None = None

    @property
    def bound(self) -> bool:
        """Whether the key may use some stores only."""
        return self.grants is not None

    def may(self, right: Right, *names: str) -> bool:
        """Whether the right covers the store of this name or this id."""
        if self.grants is None:
            return True
        held = [self.grants.get(name) for name in (*names, EVERY_STORE)]
        return "write" in held or (right == "read" and "read" in held)

    @property
    def writes(self) -> bool:
        """Whether it may change any store at all."""
        return self.grants is None or "write" in self.grants.values()

    def stores(self) -> frozenset[str] | None:
        """Names and ids of the stores that it may read; None: every one."""
        if self.grants is None or EVERY_STORE in self.grants:
            return None
        return frozenset(self.grants)


ANYBODY = Caller()
"""Who asks a backend without keys."""


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    caller: Caller


class KeyRing:
    """The keys that are accepted; without any, everybody is."""

    def __init__(self, entries: Sequence[str] = ()) -> None:
        """`entries` as `parse` takes them; raises ValueError."""
        self._keys = [
            _Key(digest, Caller(digest.hex()[:32], grants))
            for key, grants in parse(entries)
            for digest in [_digest(key.encode())]
        ]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def caller(self, sent: bytes) -> Caller | None:
        """Whose key this is; None where it is nobody's.

        Every key is compared, by digests of one length, so that the time taken says nothing.
        """
        digest, found = _digest(sent), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.caller
        return found

    def described(self) -> Iterator[str]:
        """What each key may do, without the keys."""
        for key in self._keys:
            grants = key.caller.grants
            yield (
                "all rights"
                if grants is None
                else "+".join(f"{store}:{right}" for store, right in grants.items())
            )


def parse(entries: Sequence[str]) -> list[tuple[str, Mapping[str, Right] | None]]:
    """(key, what it is bound to) of each entry.

    Raises:
        ValueError: An entry is malformed, or repeats a key; names its number and never the key.
    """
    parsed: list[tuple[str, Mapping[str, Right] | None]] = []
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        key, grants = _entry(entry, number)
        if key in seen:
            raise ValueError(f"keys that differ: entry {number} repeats the key of {seen[key]}")
        seen[key] = number
        parsed.append((key, grants))
    return parsed


def _entry(entry: str, number: int) -> tuple[str, Mapping[str, Right] | None]:
    bare = entry.rstrip("=")
    if "=" not in bare:  # what base64 ends with belongs to the key
        if not bare:
            raise ValueError(f"{_FORM}; entry {number} has no key")
        return _sendable(entry, number), None
    key, _, listed = bare.rpartition("=")
    if bare != entry or not key.strip("="):
        raise ValueError(f"{_FORM}; entry {number} is none of these")
    grants: dict[str, Right] = {}
    for grant in listed.split("+"):
        store, _, right = (part.strip() for part in grant.rpartition(":"))
        if not store or right not in ("read", "write"):
            raise ValueError(
                f"{_FORM}; entry {number} grants something else than read or write on a store"
            )
        if store in grants:
            raise ValueError(f"{_FORM}; entry {number} names a store twice")
        grants[store] = "write" if right == "write" else "read"
    return _sendable(key.strip(), number), grants


def _sendable(key: str, number: int) -> str:
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"keys of ASCII letters, digits and signs only; entry {number} has others")
    return key


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
