"""The log: one JSON object a line, or text for a terminal; never a key, and never a failed request.

Everything that Python logs passes here, uvicorn's messages, warnings and uncaught errors too.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO, cast
from urllib.parse import unquote, urlsplit

import orjson
from pydantic import SecretStr

from rag_backend.masking import mask, without_credentials
from rag_backend.notes import request_id
from rag_backend.settings import Settings

_SHORTEST = 4
"""Characters of a secret that is looked for: what is shorter stands in every second word."""
_LEVELS = {"WARNING": "warning", "INFO": "info", "ERROR": "error", "DEBUG": "debug"}
_QUIET = ("httpx", "httpx2", "httpcore", "chromadb", "openai", "sentence_transformers")

log = logging.getLogger("rag_backend")


class Secrets:
    """What must not be in any line."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known: tuple[str, ...] = ()
        self.add(known)

    def add(self, known: Iterable[str]) -> None:
        """Hide these from now on."""
        fit = {secret for secret in known if len(secret) >= _SHORTEST}
        self._known = tuple(sorted({*self._known, *fit}, key=len, reverse=True))

    def masked(self, text: str) -> str:
        """A text without them, without what looks like a key, and without URLs' passwords."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, "****")
        if "-" in text or "earer" in text.lower():
            text = mask(text, "")
        return without_credentials(text) if "@" in text else text


def secrets_of(settings: Settings) -> list[str]:
    """Every key and password that the settings hold, as written and as a URL would decode it."""
    found: list[str] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for one in value if isinstance(value, tuple) else (value,):
            text = one.get_secret_value() if isinstance(one, SecretStr) else one
            if isinstance(one, SecretStr) and "://" not in str(text):
                found.append(str(text))
            elif isinstance(text, str) and "@" in text:
                found += _passwords(text)
    return found


def _passwords(url: str) -> list[str]:
    try:
        password = urlsplit(url).password
    except ValueError:
        return []
    return [password, unquote(password)] if password else []


class JsonLines(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, id, and the record's `fields`."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": _LEVELS.get(record.levelname, record.levelname.lower()),
            "logger": record.name,
            "message": self._secrets.masked(record.getMessage()),
        }
        identity = request_id()
        if identity:
            line["id"] = identity
        for name, value in _fields(record).items():
            line[name] = self._secrets.masked(value) if isinstance(value, str) else value
        if record.exc_info:
            line["traceback"] = self._secrets.masked(_trace(record.exc_info))
        options = orjson.OPT_NON_STR_KEYS
        return orjson.dumps(line, default=str, option=options).decode("utf-8", "replace")


class TextLines(logging.Formatter):
    """A record for people: `time level logger: message name=value …`."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        fields = dict(_fields(record))
        if identity := request_id():
            fields["id"] = identity
        more = "".join(f" {name}={value}" for name, value in fields.items())
        head, newline, trace = super().format(record).partition("\n")
        return self._secrets.masked(f"{head}{more}{newline}{trace}")


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to stderr. A line that cannot be written is lost, and nothing else is."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say so once in place of the line, as far as that is possible."""
        lost = f"a line of {record.name} could not be logged"
        line = orjson.dumps({"level": "error", "logger": "rag_backend.logs", "message": lost})
        with contextlib.suppress(OSError, ValueError):  # a full disk, or a closed pipe
            self.stream.write(line.decode() + "\n")


def set_up(settings: Settings, stream: TextIO | None = None) -> Secrets:
    """Send every log line to `stream` (stderr); what hides secrets is returned to be told more."""
    stream = stream or sys.stderr
    secrets = Secrets(secrets_of(settings))
    handler = _Handler(stream)
    handler.setFormatter((JsonLines if in_json(settings, stream) else TextLines)(secrets))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    # One line a request is ours; the libraries speak up from warnings on.
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.simplefilter("ignore", FutureWarning)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    return secrets


def in_json(settings: Settings, stream: TextIO | None = None) -> bool:
    """Whether lines are JSON: as LOG_FORMAT says; `auto` is text on a terminal and JSON else."""
    if settings.log_format == "auto":
        return not (stream or sys.stderr).isatty()
    return settings.log_format == "json"


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("the backend ends: %s", kind.__name__, exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or isinstance(args.exc_value, SystemExit):
        return
    info = (args.exc_type, args.exc_value, args.exc_traceback)
    log.error("thread %s ended", args.thread.name if args.thread else "?", exc_info=info)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], record.__dict__.get("fields") or {})


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace(info: Any) -> str:
    return "".join(traceback.format_exception(*info)).rstrip()
