"""Every setting of the model server, read once into one frozen object.

A setting is a flag (`--max-context`) and a variable (`LLM_OFFLINE_MAX_CONTEXT`). The flag wins
over the real environment, which wins over `.env` in the working directory. An empty value means
"not set".
"""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from llm_offline.errors import StartError

ENV_FILE = Path(".env")
PREFIX = "LLM_OFFLINE_"


def _sendable(key: SecretStr) -> SecretStr:
    """A key that a client can put into a header."""
    text = key.get_secret_value()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError(
            "a key should have ASCII letters, digits and signs only, and no spaces: no client "
            "could send another"
        )
    return key


class Settings(BaseSettings):
    """The model server's settings, in the order in which the start prints them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        case_sensitive=False,
        protected_namespaces=(),
    )

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for the whole LAN"
    )
    port: int = Field(8001, ge=1, le=65535, description="Port to listen on")
    model: str = Field(
        "phamhai/Llama-3.2-3B-Instruct-Frog",
        min_length=1,
        description="Hugging Face id, or a folder with config.json, tokenizer and safetensors",
    )
    revision: str | None = Field(
        None, description="Branch, tag or commit of a model on the hub; empty: its main branch"
    )
    allow_pickle: bool = Field(
        False,
        description="Also take weights in `pytorch_model.bin`, where there are none in "
        "safetensors. A pickle is a program: PyTorch reads it with nothing at hand but tensors, "
        "which has had holes, so only files whose maker you trust",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="`auto` (CUDA when present, else CPU), `cpu`, `cuda`, `cuda:1` or `mps`",
    )
    dtype: str = Field(
        "auto",
        pattern=r"^(auto|bf16|fp16|fp32)$",
        description="`auto` (bf16 where the device computes in it, else fp16 on a GPU and fp32 on "
        "a CPU), `bf16`, `fp16` or `fp32`",
    )
    quantization: str = Field(
        "none",
        pattern=r"^(none|int8|int4)$",
        description="`none`, `int8` (8-bit weights; a 3B model takes 3.4 GiB instead of 6.0) or "
        "`int4` (4-bit; 2.2 GiB; on a CPU slow with long prompts)",
    )
    max_context: int | None = Field(
        None,
        ge=16,
        le=10_000_000,
        description="Most tokens of prompt and answer together; empty: what the model was made "
        "for, or what memory allows if that is less",
    )
    max_queue: int = Field(
        32,
        ge=0,
        le=100_000,
        description="Requests that may be there beyond --max-batch: of both together some are "
        "computed and the others wait, for a place or for KV memory; one more (each of n texts "
        "counts) gets a 429",
    )
    max_batch: int = Field(
        16, ge=1, le=1024, description="Most requests that are computed together; others wait"
    )
    kv_memory: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="GiB for the keys and values of requests; empty: what --max-batch requests of "
        "full length need, at most half of a CPU's free memory or what a GPU has left",
    )
    cuda_graphs: Literal["compiled", "plain", "off"] = Field(
        "compiled",
        description="On a CUDA GPU, `compiled` records decoding once and replays it, in layers "
        "compiled at the start; `plain` does without compiling, `off` without recording; what "
        "does not work on a machine is left out by itself",
    )
    chat_template: str | None = Field(
        None,
        description="`llama3`, `chatml` or a Jinja file; empty: the model's own, else the one "
        "whose special tokens it knows",
    )
    loading_wait: float = Field(
        45,
        ge=0,
        le=3600,
        description="Seconds that a request waits for a model that is being loaded before it gets "
        "a 503; 0: none. A client sends `Prefer: wait=0` to be told at once",
    )
    idle_unload: float | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Seconds without a request after which the model gives its memory back, and "
        "the encoder, each for itself; the next request loads it again; empty: never",
    )
    api_key: Annotated[SecretStr, AfterValidator(_sendable)] | None = Field(
        None, description="Bearer key that clients must send; empty: no key needed"
    )
    embedding_model: str = Field(
        "embedded",
        min_length=1,
        description="`embedded` (MiniLM, packaged), a Hugging Face id, or a folder",
    )
    embedding_device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="`auto` (the encoder computes on a CPU if it is `embedded`, else where the "
        "model does), `cpu`, `cuda`, `cuda:1` or `mps`",
    )


def flag(name: str) -> str:
    """The command line's flag of a setting: `max_context` → `--max-context`."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a setting: `max_context` → `LLM_OFFLINE_MAX_CONTEXT`."""
    return PREFIX + name.upper()


def load_settings(**flags: Any) -> Settings:
    """Read the environment and `.env`; `flags` (by field name) win over both.

    Raises:
        StartError: one line a bad value: flag or variable, the value, what is allowed; or what is
            wrong with `.env`.
    """
    try:
        _check_env_file()
        return Settings(**flags)
    except ValidationError as error:
        problems = [_one_line(problem, flags) for problem in error.errors()]
        raise StartError("\n".join(problems)) from error
    except UnicodeDecodeError as error:
        raise StartError(f"{ENV_FILE} is not UTF-8 text: save it as UTF-8") from error
    except OSError as error:
        raise StartError(f"{ENV_FILE} cannot be read: {error.strerror or error}") from error


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The same with changes (by field name), checked; raises pydantic's `ValidationError`."""
    same = {name: getattr(settings, name) for name in Settings.model_fields}
    # Environment and .env fill in what is not given, and everything is.
    return Settings(**{**same, **changes})


def _check_env_file() -> None:
    """Refuse a line that sets nothing, of which python-dotenv would only warn."""
    text = ENV_FILE.read_text("utf-8") if ENV_FILE.is_file() else ""
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            line = binding.original.string
            number = binding.original.line + line[: -len(line.lstrip())].count("\n")
            raise StartError(
                f"{ENV_FILE} line {number} is not NAME=value: {_without_value(line)!r}"
            )


def _without_value(line: str) -> str:
    """The name on a malformed line, and a number after it; all else may be a secret."""
    name, *rest = line.partition("=")[0].split(maxsplit=1) or [""]
    harmless = not rest or (rest[0].strip().isdecimal() and len(rest[0].strip()) <= 5)
    return " ".join([name[:40], *(rest if harmless else ["…"])]).strip()


def _one_line(problem: Any, flags: dict[str, Any]) -> str:
    name = str(problem["loc"][0]).lower().removeprefix(PREFIX.lower())
    field = Settings.model_fields.get(name)
    value = "(secret)" if field and "Secret" in str(field.annotation) else repr(problem["input"])
    if problem["type"] == "string_pattern_mismatch" and field and field.description:
        allowed = f"be {field.description}"
    else:
        # pydantic says "Input should be ...", "String should have ...".
        allowed = problem["msg"].partition(" should ")[2] or problem["msg"]
    given_as = flag(name) if name in flags else variable(name)
    return f"{given_as}={value} is not allowed: it should {allowed}"


def describe(settings: Settings) -> list[tuple[str, str]]:
    """(variable, effective value) in order of declaration, secrets masked."""
    return [(variable(name), _shown(getattr(settings, name))) for name in Settings.model_fields]


def _shown(value: object) -> str:
    if value is None:
        return ""
    return "****" if isinstance(value, SecretStr) else str(value)


def unknown_names() -> list[str]:
    """Names in `.env` with this package's prefix that no setting reads: typing errors."""
    if not ENV_FILE.is_file():
        return []
    known = {variable(name) for name in Settings.model_fields}
    names = dotenv_values(ENV_FILE, encoding="utf-8")
    return [name for name in names if name.upper().startswith(PREFIX) and name.upper() not in known]
