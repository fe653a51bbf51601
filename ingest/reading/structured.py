"""JSON and JSON Lines: objects as "key: value" lines; lists of questions and answers as curated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ingest.document import Block, Document
from ingest.errors import UnreadableFile
from ingest.reading import tables
from ingest.reading.cleaning import one_line
from ingest.reading.decoding import read_text
from ingest.reading.formats import by_suffix


def read(path: Path, name: str) -> Document:
    """The records of the file.

    Raises:
        UnreadableFile: it is no text, or not JSON; says line and column.
    """
    text = read_text(path, name)
    if by_suffix(name) == "jsonl":
        return Document(tuple(_records(list(_json_lines(text, name)))))
    try:
        value = json.loads(text)
    except ValueError as exc:
        # Many files named .json hold one object a line.
        if text.lstrip().startswith("{") and "\n" in text.strip():
            try:
                return Document(tuple(_records(list(_json_lines(text, name)))))
            except UnreadableFile:
                pass
        raise _not_json(exc, name, 1) from exc
    return Document(tuple(_blocks(value)))


def _json_lines(text: str, name: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as exc:
                raise _not_json(exc, name, number) from exc


def _not_json(exc: ValueError, name: str, first_line: int) -> UnreadableFile:
    if isinstance(exc, json.JSONDecodeError):
        line, column = exc.lineno + first_line - 1, exc.colno
        return UnreadableFile(
            f"{name} is not JSON: {exc.msg} at line {line}, column {column}; correct it there."
        )
    return UnreadableFile(f"{name} is not JSON: {exc}.")


def _blocks(value: Any) -> Iterator[Block]:
    if isinstance(value, list):
        yield from _records(value)
    elif isinstance(value, dict):
        plain = {key: item for key, item in value.items() if not _is_records(item)}
        if plain:
            yield from _record(plain)
        for key, item in value.items():
            if _is_records(item):
                yield Block("heading", one_line(str(key)) or "-", level=1)
                yield from _records(item)
    elif value is not None:
        yield Block("paragraph", _shown(value))


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _records(items: Sequence[Any]) -> Iterator[Block]:
    """A block a record; flat ones with a question and an answer become curated rows."""
    for item in items:
        names = [str(key) for key in item] if isinstance(item, dict) else []
        flat = bool(names) and not any(isinstance(v, dict | list) for v in item.values())
        if flat and tables.question_and_answer(names):
            yield from tables.table(names, [[_shown(value) for value in item.values()]])
        else:
            yield from _record(item)


def _record(item: Any) -> Iterator[Block]:
    lines = [line for line in _lines("", item) if line]
    if lines:
        yield Block("paragraph", "\n".join(lines))


def _lines(path: str, value: Any) -> Iterator[str]:
    """ "address.city: Huế"; a list of plain values on one line."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _lines(f"{path}.{key}" if path else str(key), item)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value, 1):
            yield from _lines(f"{path}[{number}]", item)
    else:
        shown = ", ".join(map(_shown, value)) if isinstance(value, list) else _shown(value)
        if shown:
            yield f"{path}: {shown}" if path else shown


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
