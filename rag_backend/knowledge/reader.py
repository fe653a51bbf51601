"""What a reading process does: bytes to chunks, an order a line, until its owner is gone.

It is told and tells in lines of JSON, on the pipes that were its standard input and output: nothing
that a hostile file makes of this process is executed in the owner's. See `reader_process`.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import psutil

from ingest.chunking import StaticSize, split, windows
from ingest.document import Chunk
from ingest.errors import UnreadableFile
from ingest.reading.registry import read
from rag_backend.knowledge.spooling import Spooled, handed_over, to_rows
from rag_backend.text import estimated_tokens

Read = Callable[[Path, str, Path | None, int, StaticSize | None], list[Chunk]]
"""(bytes, file name, tokenizer, most tokens, window) → chunks; see `read_and_chunk`."""

_MiB = 2**20
_NICE = 10
"""Readers get what requests and the encoder leave of the processor; while these wait, all of it."""

_WORDS_KNOWN = 2**16
_LONG_WORD = 64
"""Characters; longer ones do not come again."""

log = logging.getLogger(__name__)


def serve() -> None:
    """Read what is ordered, one file after the other, until the owner closes the pipe or dies.

    The first line names the function that reads (`module:name`) and the memory that a file may
    need, in MiB.
    """
    orders, answers = _take_pipes()
    begin = json.loads(orders.get())
    module, name = begin["read"].split(":")
    reader: Read = getattr(importlib.import_module(module), name)
    _limit(begin["memory_mb"])
    _tell(answers, {"ready": True})
    while True:
        _tell(answers, _answer(reader, json.loads(orders.get())))


def _answer(reader: Read, order: Mapping[str, Any]) -> dict[str, Any]:
    spool = Path(order["spool"]) if order["spool"] else None
    tokenizer = Path(order["tokenizer"]) if order["tokenizer"] else None
    static = StaticSize(**order["static"]) if order["static"] else None
    try:
        chunks = reader(
            Path(order["path"]), order["filename"], tokenizer, order["max_tokens"], static
        )
        return _handed_over(chunks, spool)
    except UnreadableFile as error:
        return {"unreadable": str(error), "code": error.code}
    except MemoryError:
        return {"memory": True}
    except Exception:  # noqa: BLE001 - a worker's loop; the owner logs it
        return {"defect": traceback.format_exc()}


def _handed_over(chunks: list[Chunk], spool: Path | None) -> dict[str, Any]:
    try:
        kept = handed_over(chunks, spool)
    except OSError as error:
        return {"disk": error.strerror or str(error)}
    if isinstance(kept, Spooled):
        return {"size": kept.size, "bounds": kept.bounds}
    return {"chunks": to_rows(kept)}


def _take_pipes() -> tuple[queue.SimpleQueue[bytes], BinaryIO]:
    """The owner's orders as they come, and where it listens: what parsers print goes elsewhere."""
    inward, outward = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        try:
            for line in inward:
                orders.put(line)
        finally:
            os._exit(1)  # the owner is gone: in the middle of a file nobody else would notice

    threading.Thread(target=listen, daemon=True).start()
    return orders, outward


def _tell(answers: BinaryIO, answer: dict[str, Any]) -> None:
    try:
        line = orjson.dumps(answer)
    except TypeError:  # half a character, which no store would take
        line = orjson.dumps({"defect": traceback.format_exc()})
    answers.write(line + b"\n")
    answers.flush()


def _limit(memory_mb: int) -> None:
    if hasattr(os, "nice"):
        os.nice(_NICE)
    # Ctrl-C reaches the whole process group; the owner stops its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        _limit_memory(memory_mb * _MiB)


if sys.platform != "win32":

    def _limit_memory(size: int) -> None:
        """Let this process grow by `size` bytes: what it is already is not the file's doing."""
        import resource

        limit = psutil.Process().memory_info().vms + size
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            limit = min(limit, most)
        try:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        except (OSError, ValueError):
            log.warning("this system does not limit a reader's memory (READ_MEMORY_MB)")


# Reading


def read_and_chunk(
    path: Path,
    filename: str,
    tokenizer_file: Path | None,
    max_tokens: int,
    static: StaticSize | None = None,
) -> list[Chunk]:
    """What a worker does: bytes to chunks that fit the encoder."""
    document, count = read(path, filename), token_counter(tokenizer_file)
    if static is not None:
        return windows(document, count, max_tokens, static)
    return split(document, count, max_tokens)


@lru_cache(maxsize=4)
def token_counter(tokenizer_file: Path | None) -> Callable[[str], int]:
    """Counts an encoder's tokens; without its tokenizer, an estimate that is never too low."""
    if tokenizer_file is None:
        return estimated_tokens
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    splits = json.loads(tokenizer.to_str())["pre_tokenizer"] or {}
    return _by_words(count) if splits.get("type") == "BertPreTokenizer" else count


def _by_words(count: Callable[[str], int]) -> Callable[[str], int]:
    """The same for a tokenizer that never joins what a blank divides, ten times as fast.

    Chunking counts every sentence, and then the chunk that it is in; and words come again.
    """
    known = lru_cache(_WORDS_KNOWN)(count)

    def summed(text: str) -> int:
        words = text.replace("\n", " ").split(" ")
        return sum(known(word) if len(word) < _LONG_WORD else count(word) for word in words)

    return summed
