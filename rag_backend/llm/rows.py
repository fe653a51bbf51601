"""Providers as data: a row says where a model is, not how it is spoken to."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, create_model
from pydantic_settings import BaseSettings, SettingsConfigDict

from rag_backend.errors import StartError
from rag_backend.llm.prices import FREE, Price, given_price, openai_price
from rag_backend.settings import ENV_ENCODING, ENV_FILE, Settings
from rag_backend.upstream import check_access, is_openai, with_version
from rag_backend.values import Url

Kind = Literal["openai_compatible", "extractive"]
EXTRACTIVE = "extractive"
SMART = "smart"
RESERVED = ("auto", "none", SMART, "openai", "local", EXTRACTIVE)
"""Names that settings give a meaning to; a file's row cannot take them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """One provider.

    Attributes:
        name: What settings and a request's `model` call it.
        kind: Which class speaks to it.
        base_urls: One a host, each with its path (`/v1`); several hosts serve the same model.
        api_key: None where the server wants none.
        model: Name to send upstream; None: the first model that the server lists.
        cloud: Whether requests leave the LAN. Such a row answers only when chosen or listed, and
            only such a row goes through the environment's proxy.
        context_tokens: Tokens of prompt and answer together; None where not known.
        price: What somebody set; None: see `price_of`.
        url_setting, key_setting, model_setting: Where a person corrects the address, the key and
            the model's name.
    """

    name: str
    kind: Kind = "openai_compatible"
    base_urls: tuple[str, ...] = ()
    api_key: SecretStr | None = None
    model: str | None = None
    cloud: bool = False
    context_tokens: int | None = None
    price: Price | None = None
    url_setting: str = "base_url"
    key_setting: str = "api_key"
    model_setting: str = "model"

    @property
    def secret(self) -> str:
        """The key in clear text, "" where there is none."""
        return self.api_key.get_secret_value() if self.api_key else ""


class _Variable(BaseSettings):
    """A variable whose name only the file knows, read as every other setting is."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_file_encoding=ENV_ENCODING, env_ignore_empty=True, extra="ignore"
    )


class _FileRow(BaseModel):
    """One `[providers.NAME]` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: Url | list[Url] = Field(min_length=1)
    model: str | None = None
    api_key: SecretStr | None = None
    api_key_env: str | None = None
    cloud: bool = False
    context_tokens: int | None = Field(None, ge=256)
    price_in: float | None = Field(None, ge=0)
    price_out: float | None = Field(None, ge=0)
    price_cached_in: float | None = Field(None, ge=0)


def rows_from(settings: Settings) -> list[ProviderRow]:
    """Every provider that the settings configure, `extractive` last.

    Raises:
        StartError: the LLM_PROVIDERS file, a URL or a key cannot be used; one line.
    """
    rows = [_openai(settings), _local(settings)]
    configured = [row for row in rows if row is not None]
    if settings.llm_providers is not None:
        configured += read_rows(settings.llm_providers)
    for row in configured:
        check(row)
    return [*configured, ProviderRow(EXTRACTIVE, kind="extractive")]


def check(row: ProviderRow) -> None:
    """Refuse now what every request would fail for later, with a less clear message.

    Raises:
        StartError: one line that names the setting to correct.
    """
    check_access(row.base_urls, row.secret, row.url_setting, row.key_setting)


def price_of(row: ProviderRow, *models: str | None) -> Price | None:
    """What a row's answers cost: as set; else nothing on one's own machines, and at OpenAI what
    the table has for the first of `models` that it knows. None: nobody knows."""
    if row.price is not None:
        return row.price
    if not row.cloud:
        return FREE
    at_openai = row.name == "openai" or any(map(is_openai, row.base_urls))
    return openai_price(*models) if at_openai else None


def _openai(settings: Settings) -> ProviderRow | None:
    if settings.openai_api_key is None:
        return None
    return ProviderRow(
        "openai",
        base_urls=(with_version(settings.openai_base_url),),
        api_key=settings.openai_api_key,
        model=settings.openai_model,
        cloud=True,
        context_tokens=128_000,
        price=_given(
            "OPENAI_PRICE_IN, OPENAI_PRICE_OUT",
            settings.openai_price_in,
            settings.openai_price_out,
            settings.openai_price_cached_in,
        ),
        url_setting="OPENAI_BASE_URL",
        key_setting="OPENAI_API_KEY",
        model_setting="OPENAI_MODEL",
    )


def _local(settings: Settings) -> ProviderRow | None:
    if not settings.local_llm_api_url:
        return None
    return ProviderRow(
        "local",
        base_urls=tuple(with_version(url) for url in settings.local_llm_api_url),
        api_key=settings.local_llm_api_key,
        model=settings.local_llm_model,
        context_tokens=settings.local_llm_context_tokens,
        url_setting="LOCAL_LLM_API_URL",
        key_setting="LOCAL_LLM_API_KEY",
        model_setting="LOCAL_LLM_MODEL",
    )


def read_rows(path: Path) -> list[ProviderRow]:
    """The rows of an LLM_PROVIDERS file: `[providers.NAME]` tables in TOML, or the same in JSON.

    Raises:
        StartError: one line that names the file, the row and what is allowed.
    """
    where = f"LLM_PROVIDERS={path}"
    return [_row(where, name, table) for name, table in _tables(where, path).items()]


def key_variables(path: Path | None) -> set[str]:
    """Variables that an LLM_PROVIDERS file reads keys from; none where it cannot be read, which
    `read_rows` says."""
    if path is None:
        return set()
    try:
        tables = _tables(f"LLM_PROVIDERS={path}", path).values()
    except StartError:
        return set()
    named = (table.get("api_key_env") for table in tables if isinstance(table, dict))
    return {name for name in named if isinstance(name, str)}


def _tables(where: str, path: Path) -> Mapping[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise StartError(f"{where} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        form = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise StartError(f"{where} is not valid {form}: {error}") from error
    tables = content.get("providers") if isinstance(content, dict) else None
    if not isinstance(tables, dict) or not tables:
        raise StartError(f"{where} has no providers: it should contain [providers.NAME] tables")
    return tables


def _row(where: str, name: str, table: object) -> ProviderRow:
    if name in RESERVED or not _NAME.fullmatch(name):
        raise StartError(
            f"{where}: the name {name!r} cannot be used: it should consist of letters, digits, "
            f"'.', '_' and '-', and be none of {', '.join(RESERVED)}"
        )
    try:
        row = _FileRow.model_validate(table)
    except ValidationError as error:
        raise StartError(f"{where}, provider {name!r}: {_problem(error)}") from None
    urls = [row.base_url] if isinstance(row.base_url, str) else row.base_url
    return ProviderRow(
        name,
        base_urls=tuple(with_version(url) for url in urls),
        api_key=row.api_key or _key_from(where, name, row.api_key_env),
        model=row.model,
        cloud=row.cloud or any(map(is_openai, urls)),
        context_tokens=row.context_tokens,
        price=_given(
            f"{where}, provider {name!r}", row.price_in, row.price_out, row.price_cached_in
        ),
        url_setting=f"base_url of {name!r} in {where}",
        key_setting=row.api_key_env or f"api_key of {name!r} in {where}",
        model_setting=f"model of {name!r} in {where}",
    )


def _given(
    where: str, price_in: float | None, price_out: float | None, cached_in: float | None
) -> Price | None:
    try:
        return given_price(price_in, price_out, cached_in)
    except ValueError as error:
        raise StartError(f"{where}: {error}") from None


def _problem(error: ValidationError) -> str:
    """The first thing wrong, without the value: it may be a key."""
    first: Mapping[str, Any] = error.errors(include_input=False, include_url=False)[0]
    message = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{first['loc'][0] if first['loc'] else 'the table'} should be {message}"


def _key_from(where: str, name: str, variable: str | None) -> SecretStr | None:
    if variable is None:
        return None
    key: Any = Field(None, validation_alias=variable)
    source: Any = create_model("_Key", __base__=_Variable, value=(SecretStr | None, key))
    value: SecretStr | None = source().value
    if value is None:
        raise StartError(f"{where}, provider {name!r}: the variable {variable} is not set")
    return value
