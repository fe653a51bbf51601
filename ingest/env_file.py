"""`.env` as text, every line of it well-formed."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream


def read_env_file(path: Path) -> str:
    """The file's text, "" where there is none.

    Raises:
        ValueError: It cannot be read, or a line sets nothing: python-dotenv would only warn of it,
            and the setting would silently not be made. One sentence, without any value.
    """
    try:
        there = path.is_file() or path.is_fifo()
        # Windows' editors put a mark before the first name.
        text = path.read_text("utf-8-sig") if there else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            line = binding.original.string
            number = binding.original.line + line[: -len(line.lstrip())].count("\n")
            raise ValueError(f"{path} line {number} is not NAME=value: {_without_value(line)!r}")
    return text


def _without_value(line: str) -> str:
    """The name on a malformed line, and a number after it; all else may be a secret."""
    name, *rest = line.partition("=")[0].split(maxsplit=1) or [""]
    harmless = not rest or (rest[0].strip().isdecimal() and len(rest[0].strip()) <= 5)
    return " ".join([name[:40], *(rest if harmless else ["…"])]).strip()
