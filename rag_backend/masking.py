"""What an upstream says, without the key that it quotes."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?<=://)(?!(USER)?:PASSWORD@)[^/\s'\"]*@")
"""User name and password of a URL; our own examples are none."""
_SECRET = re.compile(r"\b(?:sk|pk|rk)-[^\s'\",;)]+|\bBearer\s+\S+", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """Without the user name and password that a URL in the text may carry."""
    return _CREDENTIALS.sub("****@", text)


def mask(text: str, key: str) -> str:
    """A text without the key, parts of it, or anything that looks like one."""
    text = _SECRET.sub("****", text)
    if not key:
        return text
    text = text.replace(key, "****")
    if len(key) < 8:
        return text
    ends = (key[:6], key[-4:])
    # Servers quote keys shortened: "abcdef***wxyz".
    return re.sub(r"\S+", lambda word: _masked(word.group(), ends), text)


def _masked(word: str, ends: tuple[str, str]) -> str:
    return "****" if any(end in word for end in ends) else word
