"""What a setting may be: the types of `Settings`, each with the words for what it is not."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import Annotated, Literal
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from rag_backend.keys import parse

IN_MEMORY = "memory://"
"""The CACHE_URL of answers kept in this process."""
_FOUR_NUMBERS = re.compile(r"\d+(\.\d+){3}")


def _comma_separated(value: object) -> object:
    """`a, b` → ("a", "b"); anything that is not text goes on to validation as it is."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _taken_apart(url: str) -> SplitResult | None:
    """A URL's parts; None where its host or port is none that any library would connect to."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")  # raises for labels that are empty or longer than 63 characters
        if _FOUR_NUMBERS.fullmatch(host):
            IPv4Address(host)
        clean = url.isprintable() and not any(map(str.isspace, parts.netloc))
        return parts if clean and parts.port != 0 else None
    except ValueError:
        return None


def _http_url(value: object) -> object:
    """Refuse what is not an http(s) URL; drop a trailing slash."""
    if isinstance(value, str) and value:
        parts = _taken_apart(value)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a URL such as http://192.168.1.20:8001")
        return value.rstrip("/")
    return value


def _http_urls(value: object) -> object:
    urls = _comma_separated(value)
    return tuple(_http_url(url) for url in urls) if isinstance(urls, tuple) else urls


def _postgres_url(value: object) -> object:
    """Refuse what is not PostgreSQL's; its parts are checked when it is opened."""
    if isinstance(value, str) and value:
        scheme = value.partition("://")[0]
        if scheme not in ("postgresql", "postgres", "postgresql+psycopg") or "://" not in value:
            raise ValueError(
                "postgresql://USER:PASSWORD@HOST/DATABASE, or empty for SQLite in DATA_DIR"
            )
        return "postgresql" + value[len(scheme) :]
    return value


def _keys(value: object) -> object:
    """Comma-separated keys, each with what it is bound to; see `keys`."""
    entries = _comma_separated(value)
    if entries == () and value:  # who writes commas alone believes that the door is locked
        raise ValueError("at least one key, or empty for none")
    if isinstance(entries, tuple):
        parse([e.get_secret_value() if isinstance(e, SecretStr) else str(e) for e in entries])
    return entries


def _origins(value: object) -> object:
    """Refuse what no browser sends as an origin: paths, and names without a scheme."""
    origins = _comma_separated(value)
    if isinstance(origins, tuple):
        for origin in origins:
            parts = _taken_apart(str(origin))
            whole = f"{parts.scheme}://{parts.netloc}" if parts and parts.hostname else ""
            if origin != "*" and (whole != origin or "@" in whole):
                raise ValueError("origins such as https://chat.example.org, comma-separated, or *")
    return origins


def _cache_url(value: object) -> object:
    """Refuse what is no place for answers, and passwords where no log would mask them."""
    if not isinstance(value, str) or value in ("none", IN_MEMORY):
        return value
    parts = _taken_apart(value)
    if parts is None or not _is_place(parts):
        raise ValueError(
            "memory://, none, or a URL such as redis://:PASSWORD@192.168.1.20:6379/0 (signs such "
            "as @ or / in the password as %40, %2F)"
        )
    if {"password", "username"} & set(parse_qs(parts.query)):
        raise ValueError("a URL with the password before the host: redis://:PASSWORD@HOST:6379/0")
    return value


def _is_place(parts: SplitResult) -> bool:
    if parts.scheme == "unix":
        return bool(parts.path)
    # Anything else than a number would silently be database 0.
    return parts.scheme in ("redis", "rediss") and bool(
        parts.hostname and re.fullmatch(r"(/[0-9]*)?", parts.path)
    )


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_keys)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)]
Url = Annotated[str, BeforeValidator(_http_url)]
CacheUrl = Annotated[str, BeforeValidator(_cache_url)]
Urls = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_http_urls)]
DatabaseUrl = Annotated[SecretStr, BeforeValidator(_postgres_url)]
Features = Annotated[
    tuple[Literal["tools", "response_format", "logprobs"], ...],
    NoDecode,
    BeforeValidator(_comma_separated),
]
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
