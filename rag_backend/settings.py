"""Every environment variable of the backend, read once into one frozen object.

A variable is the field's name in upper case. The real environment wins over `.env` in the
working directory. An empty value means "not set".
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ingest.env_file import read_env_file
from rag_backend.errors import StartError
from rag_backend.spelling import Unread, unread
from rag_backend.values import (
    IN_MEMORY,
    CacheUrl,
    DatabaseUrl,
    Dollars,
    Features,
    Names,
    Origins,
    Seconds,
    Secrets,
    Url,
    Urls,
)

ENV_FILE = Path(".env")
ENV_ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that Windows' editors put before the first name."""
_CREDENTIALS = re.compile(r"(?<=://).*@", re.DOTALL)
_OPTIONS = re.compile(r"(?<=\w)\?[^\s'\"]+")


class Settings(BaseSettings):
    """The backend's settings; `describe()` lists them for the start and the documents' test."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding=ENV_ENCODING,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        case_sensitive=False,
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for the whole LAN")
    port: int = Field(30000, ge=1, le=65535, description="Port to listen on")
    data_dir: Path = Field(
        Path("data"), description="Directory of catalog, vectors, postings, files"
    )
    api_keys: Secrets = Field(
        (),
        description="Bearer keys that clients must send, comma-separated; `KEY=STORE:read` or "
        "`KEY=STORE:read+OTHER:write` binds one to vector stores; empty: no key needed",
    )
    allow_without_keys: Literal["anyone-on-this-network"] | None = Field(
        None,
        description="`anyone-on-this-network`: listen on more than this machine although there are "
        "no API_KEYS; empty: such a start is refused",
    )
    cors_origins: Origins = Field(
        (),
        description="Web pages that may call from a browser, as origins such as "
        "https://chat.example.org, comma-separated; `*`: any (needs API_KEYS); empty: none",
    )
    max_concurrent_requests: int = Field(
        128, ge=1, le=10_000, description="Questions, searches and embeddings answered at once"
    )
    max_queued_requests: int = Field(
        256, ge=0, le=100_000, description="Those that may wait for a place; one more gets a 429"
    )
    max_body_mb: int = Field(
        32, ge=1, le=1024, description="Largest request body in MiB, file uploads aside"
    )
    max_messages: int = Field(2048, ge=1, le=100_000, description="Most messages in a request")
    max_message_chars: int = Field(
        200_000, ge=1000, le=100_000_000, description="Longest message, in characters"
    )
    max_file_mb: int = Field(512, ge=1, le=4096, description="Largest file accepted, in MiB")
    read_timeout: Seconds = Field(
        120,
        description="Most work on reading one file, in seconds; waiting for a busy processor or "
        "disk does not count",
    )
    read_memory_mb: int = Field(
        2048, ge=256, le=65_536, description="Most memory for reading one file, in MiB (POSIX)"
    )
    database_url: DatabaseUrl | None = Field(
        None,
        description="Catalog in PostgreSQL, shared by several backends: "
        "postgresql://user:password@host/database (needs CHROMA_URL); empty: SQLite in DATA_DIR",
    )
    chroma_url: Url | None = Field(
        None, description="Chroma server; empty: Chroma embedded in DATA_DIR"
    )
    embedding_model: str = Field(
        "embedded",
        min_length=1,
        description="`embedded` (MiniLM, packaged), a Hugging Face id, or a local path; with "
        "EMBEDDING_URL: the model's name there (`embedded`: the one it lists)",
    )
    embedding_url: Url | None = Field(
        None,
        description="Server of OpenAI's /v1/embeddings (llm_offline, OpenAI …); empty: the encoder "
        "runs in this process",
    )
    embedding_api_key: SecretStr | None = Field(None, description="Key for EMBEDDING_URL")
    embedding_max_tokens: int = Field(
        512,
        ge=64,
        le=32_768,
        description="Longest text sent to EMBEDDING_URL, in tokens as estimated (2 bytes each); "
        "less where it says that it reads less, as llm_offline does",
    )
    reranker_model: str | None = Field(
        None,
        description="Cross-encoder that orders the best 50 results anew: a Hugging Face id or a "
        "local path; empty: none",
    )

    llm_provider: str = Field(
        "auto",
        min_length=1,
        description="`openai`, `local`, `extractive`, a name from LLM_PROVIDERS, `auto` "
        "(openai if a key is set, else local if a URL is set, else extractive), or `smart` "
        "(simple questions to local, hard ones to SMART_STRONG)",
    )
    llm_fallback: Names | None = Field(
        None,
        description="Providers to try, in order, when the chosen one fails; `none`: none; "
        "empty: `local` where it is configured, then `extractive`",
    )
    llm_providers: Path | None = Field(
        None, description="TOML or JSON file with more OpenAI-compatible providers"
    )
    smart_strong: str = Field(
        "openai",
        min_length=1,
        description="With LLM_PROVIDER=smart: who answers hard questions, `openai` or a name from "
        "LLM_PROVIDERS; documents go there with them",
    )
    smart_share: float = Field(
        0.3,
        ge=0,
        le=1,
        description="With LLM_PROVIDER=smart: share of the questions that SMART_STRONG is to "
        "answer, 0 to 1",
    )
    unknown_model: Literal["default", "refuse"] = Field(
        "default",
        description="A request's unknown `model`: `default` provider answers, or `refuse` (404)",
    )
    openai_api_key: SecretStr | None = Field(None, description="Key for OpenAI; switches it on")
    openai_base_url: Url = Field(
        "https://api.openai.com/v1", description="OpenAI's API, or a proxy"
    )
    openai_model: str = Field("gpt-4o-mini", min_length=1, description="Model asked for at OpenAI")
    openai_price_in: Dollars | None = Field(
        None, description="US dollars per million prompt tokens; empty: the packaged table's"
    )
    openai_price_out: Dollars | None = Field(
        None, description="US dollars per million tokens of answers; goes with OPENAI_PRICE_IN"
    )
    openai_price_cached_in: Dollars | None = Field(
        None,
        description="US dollars per million prompt tokens that OpenAI had cached; empty: "
        "OPENAI_PRICE_IN where that is set",
    )
    local_llm_api_url: Urls = Field(
        (), description="Model server(s) on the LAN, comma-separated: http://192.168.1.20:8001"
    )
    local_llm_api_key: SecretStr | None = Field(None, description="Key for the local model server")
    local_llm_model: str | None = Field(
        None, description="Model asked for at the local server; empty: the one it serves"
    )
    local_llm_context_tokens: int | None = Field(
        None,
        ge=256,
        description="Tokens that the local model reads, prompt and answer; longer prompts go to "
        "SMART_STRONG; empty: found out when it refuses one",
    )
    local_llm_features: Features = Field(
        (),
        description="What the local server can beside text: `tools`, `response_format`, "
        "`logprobs`; what it cannot goes to SMART_STRONG",
    )
    llm_connect_timeout: Seconds = Field(3, description="Longest time to connect, in seconds")
    llm_first_token_timeout: Seconds = Field(
        60, description="Longest wait for the first token, in seconds"
    )
    llm_loading_timeout: Seconds = Field(
        180, description="Longest wait for a model that says it is still loading, in seconds"
    )
    llm_idle_timeout: Seconds = Field(30, description="Longest gap between tokens, in seconds")
    llm_total_timeout: Seconds = Field(
        300, description="Longest time for a whole answer, retries included, in seconds"
    )
    llm_max_attempts: int = Field(3, ge=1, le=10, description="Attempts per provider")
    llm_breaker_threshold: int = Field(
        5, ge=0, le=1000, description="Failures in a row after which a host is left alone; 0: never"
    )
    llm_probe_interval: Seconds = Field(
        5, description="Time between looks at a host that is left alone, in seconds"
    )

    context_tokens: int = Field(
        2500, ge=200, le=200_000, description="Tokens of passages put before the model"
    )
    condense: Literal["auto", "always", "never"] = Field(
        "auto", description="Shorten the passages: when they exceed CONTEXT_TOKENS, always, never"
    )
    no_answer: Literal["say", "model"] = Field(
        "say", description="Nothing relevant found: say so, or let the model answer without sources"
    )
    cache_url: CacheUrl = Field(
        IN_MEMORY,
        description="Where answers are kept: `memory://`, a Redis or KeyDB such as "
        "redis://:PASSWORD@HOST:6379/0, or `none`",
    )
    cache_ttl: float = Field(
        3600, gt=0, le=2_592_000, description="How long an answer is kept, in seconds"
    )
    cache_max_mb: int = Field(
        64, ge=1, le=65_536, description="Most memory for answers in `memory://`, in MiB"
    )
    cache_max_entries: int = Field(
        10_000, ge=1, le=10_000_000, description="Most answers kept in `memory://`"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe message logged"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="Log lines: `json`, `text`, or `auto` (text on a terminal, else json)"
    )
    health_interval: Seconds = Field(
        30, description="Time between looks at the dependencies (/health/ready), in seconds"
    )
    log_content: bool = Field(False, description="Also log questions and answers (1) or not (0)")


def load_settings(**overrides: Any) -> Settings:
    """Read the environment and `.env`; `overrides` (field names) win over both.

    Raises:
        StartError: one line a bad value: the variable, the value, what is allowed.
    """
    try:
        read_env_file(ENV_FILE)
        return Settings(**overrides)
    except ValidationError as error:
        raise StartError("\n".join(_one_line(problem) for problem in error.errors())) from error
    except ValueError as error:  # .env cannot be used
        raise StartError(str(error)) from error


def _one_line(problem: Any) -> str:
    name = str(problem["loc"][0])
    field = Settings.model_fields.get(name)
    secret = field is not None and "Secret" in str(field.annotation)
    value = "(secret)" if secret else _without_password(repr(problem["input"]))
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{name.upper()}={value} is not allowed: it should be {allowed}"


def _without_password(text: str) -> str:
    """Without the user name and password, and the options, that a URL may carry."""
    return _OPTIONS.sub("?****", _CREDENTIALS.sub("****@", text))


def describe(settings: Settings) -> list[tuple[str, str]]:
    """(variable, effective value) in order of declaration, secrets masked."""
    return [(name.upper(), _shown(getattr(settings, name))) for name in Settings.model_fields]


def _shown(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, SecretStr):
        return "****"
    if isinstance(value, tuple):
        return ",".join(_shown(item) for item in value)
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:g}"
    return _without_password(str(value))


def misspelt(read_elsewhere: Collection[str] = ()) -> list[Unread]:
    """Names in `.env` that look like settings and are none.

    Args:
        read_elsewhere: Names that something else than a setting reads, such as a provider's key.
    """
    if not ENV_FILE.is_file():
        return []
    known = {name.upper() for name in Settings.model_fields} | {n.upper() for n in read_elsewhere}
    return list(unread(dotenv_values(ENV_FILE, encoding=ENV_ENCODING), known))
