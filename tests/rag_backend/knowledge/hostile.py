"""Readers that misbehave, run in place of `read_and_chunk` in a worker process.

The file's own text says how: "hang", "memory", "exit", "raise", "print", or anything else
for one good chunk.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from ingest.chunking import StaticSize
from ingest.document import Chunk


def read_and_chunk(
    path: Path,
    filename: str,
    tokenizer_file: Path | None,
    max_tokens: int,
    static: StaticSize | None = None,
) -> list[Chunk]:
    """See the module."""
    order = path.read_text().strip()
    if order == "hang":
        threading.Event().wait()
    if order == "memory":
        return [Chunk("x", 0, len(bytearray(2**31)))]
    if order == "exit":
        os._exit(3)
    if order == "raise":
        raise KeyError("a defect")
    if order == "print":
        print("what a parser says", flush=True)
    return [Chunk(order, 0, len(order))]
