"""Every environment variable of the command line, read once into one frozen object.

The real environment wins over `.env` in the working directory. An empty value means "not set".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values

from ingest.env_file import read_env_file
from ingest.errors import CommandError

ENV_FILE = Path(".env")
PREFIX = "RAG_BACKEND_"
DEFAULT_PORT = 30000
DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where the backend is; `documented()` lists the variables for the documents' test.

    `default_url` is where one on this machine listens, and where one is started if need be.
    """

    url: str | None = field(
        default=None,
        metadata={
            "description": "Backend that `python -m ingest` talks to; empty: 127.0.0.1 at PORT, "
            "and one is started there for the duration where none answers"
        },
    )
    api_key: str | None = field(
        default=None,
        repr=False,
        metadata={
            "description": "Key that `python -m ingest` sends, one of the backend's API_KEYS"
        },
    )
    default_url: str = DEFAULT_URL


def documented() -> list[tuple[str, str]]:
    """(variable, what it is for) in order of declaration."""
    return [
        (PREFIX + f.name.upper(), f.metadata["description"])
        for f in fields(ClientSettings)
        if f.metadata
    ]


def load_settings(
    url: str | None = None,
    api_key: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> ClientSettings:
    """Read the environment and `.env`; `url` and `api_key` (from flags) win over both.

    PORT is the backend's own variable: it counts where no URL is given.

    Raises:
        CommandError: `.env` cannot be read or has a line that sets nothing, or a value is not
            allowed.
    """
    written = {k.upper(): v for k, v in dotenv_values(stream=StringIO(_env_text())).items()}
    real = os.environ if environment is None else environment

    def value(name: str) -> str | None:
        return (real.get(name) or written.get(name) or "").strip() or None

    def given(flag: str, argument: str | None, name: str) -> tuple[str, str | None]:
        return (flag, argument) if argument is not None else (name, value(name))

    address = _checked_url(*given("--url", url, f"{PREFIX}URL"))
    key = _checked_key(*given("--api-key", api_key, f"{PREFIX}API_KEY"))
    if address is not None:
        return ClientSettings(address, key)
    return ClientSettings(None, key, f"http://127.0.0.1:{_checked_port(value('PORT'))}")


def _env_text() -> str:
    try:
        return read_env_file(ENV_FILE)
    except ValueError as error:
        raise CommandError(str(error)) from error


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


def _checked_port(port: str | None) -> int:
    if port is None:
        return DEFAULT_PORT
    if not (port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise CommandError(f"PORT={port!r} is not allowed: it should be a number from 1 to 65535")
    return int(port)


def _checked_key(source: str, key: str | None) -> str | None:
    if key and not (key.isascii() and key.isprintable()):
        raise CommandError(f"{source} is not allowed: a key has only ASCII letters and signs")
    return key or None
