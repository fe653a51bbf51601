"""What an upstream says, without the key that it quotes."""

from __future__ import annotations

import re

_SECRET = re.compile(r"\b(?:sk|pk|rk)-[^\s'\",;)]+|\bBearer\s+\S+", re.IGNORECASE)


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
