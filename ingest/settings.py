"""Every environment variable of the command line, read once into one frozen object.

The real environment wins over `.env` in the working directory. An empty value means "not set".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values

from ingest.errors import CommandError

ENV_FILE = Path(".env")
PREFIX = "RAG_BACKEND_"
DEFAULT_URL = "http://127.0.0.1:30000"


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where the backend is; `documented()` lists the variables for the documents' test."""

    url: str | None = field(
        default=None,
        metadata={
            "description": f"Backend that `python -m ingest` talks to; empty: {DEFAULT_URL}, and "
            "one is started there for the duration where none answers"
        },
    )
    api_key: str | None = field(
        default=None,
        repr=False,
        metadata={
            "description": "Key that `python -m ingest` sends, one of the backend's API_KEYS"
        },
    )


def documented() -> list[tuple[str, str]]:
    """(variable, what it is for) in order of declaration."""
    return [(PREFIX + f.name.upper(), f.metadata["description"]) for f in fields(ClientSettings)]


def load_settings(
    url: str | None = None,
    api_key: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> ClientSettings:
    """Read the environment and `.env`; `url` and `api_key` (from flags) win over both.

    Raises:
        CommandError: `.env` cannot be read, or a value is not allowed.
    """
    try:
        written = {k.upper(): v for k, v in dotenv_values(ENV_FILE, encoding="utf-8").items()}
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{ENV_FILE} cannot be read: {error}") from error
    real = os.environ if environment is None else environment

    def value(name: str) -> str | None:
        return (real.get(PREFIX + name) or written.get(PREFIX + name) or "").strip() or None

    address = ("--url", url) if url is not None else (f"{PREFIX}URL", value("URL"))
    key = ("--api-key", api_key) if api_key is not None else (f"{PREFIX}API_KEY", value("API_KEY"))
    return ClientSettings(_checked_url(*address), _checked_key(*key))


def _checked_url(source: str, url: str | None) -> str | None:
    """Without a trailing slash, and without the `/v1` that people copy from SDK examples."""
    if url is None:
        return None
    refusal = f"{source}={url!r} is not allowed: it should be a URL such as {DEFAULT_URL}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:  # a port that is no number, an IPv6 address without its bracket
        raise CommandError(refusal) from error
    if not valid or parts.query or parts.fragment:
        raise CommandError(refusal)
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _checked_key(source: str, key: str | None) -> str | None:
    if key and not (key.isascii() and key.isprintable()):
        raise CommandError(f"{source} is not allowed: a key has only ASCII letters and signs")
    return key or None
