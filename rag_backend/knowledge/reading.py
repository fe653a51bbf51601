"""Reading and chunking in worker processes: a hostile file takes down its own worker only."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import lru_cache
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from ingest.chunking import split
from ingest.document import Chunk
from ingest.errors import UnreadableFile
from ingest.reading.registry import read

_MiB = 2**20


class ReadingPool:
    """Worker processes with a time and a memory limit a file."""

    def __init__(self, workers: int, timeout: float, memory_mb: int) -> None:
        self._timeout = timeout
        self._memory_mb = memory_mb
        self._pool = ProcessPool(
            max_workers=workers,
            max_tasks=200,  # parsers leak; a fresh process now and then costs half a second
            context=multiprocessing.get_context("spawn"),
            initializer=_limit_worker,
            initargs=(memory_mb,),
        )

    async def read(
        self, path: Path, filename: str, tokenizer_file: Path | None, max_tokens: int
    ) -> list[Chunk]:
        """A file's chunks; raises UnreadableFile with a sentence for the user."""
        job = self._pool.schedule(
            read_and_chunk,
            args=(path, filename, tokenizer_file, max_tokens),
            timeout=self._timeout,
        )
        try:
            future: Future[list[Chunk]] = job
            return await asyncio.wrap_future(future)
        except FutureTimeoutError as error:
            raise UnreadableFile(
                f"Reading took longer than READ_TIMEOUT={self._timeout:g} seconds: split the file, "
                "or raise the limit."
            ) from error
        except MemoryError as error:
            raise UnreadableFile(
                f"Reading needed more memory than READ_MEMORY_MB={self._memory_mb}: split the "
                "file, or raise the limit."
            ) from error
        except ProcessExpired as error:
            raise UnreadableFile(
                "The file made its reader crash: it is damaged, or too complex to read."
            ) from error

    def close(self) -> None:
        """Stop the workers now; jobs that they had are done again at the next start."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


def read_and_chunk(
    path: Path, filename: str, tokenizer_file: Path | None, max_tokens: int
) -> list[Chunk]:
    """What a worker does: bytes to chunks that fit the encoder."""
    return split(read(path, filename), token_counter(tokenizer_file), max_tokens)


@lru_cache(maxsize=4)
def token_counter(tokenizer_file: Path | None) -> Callable[[str], int]:
    """Counts an encoder's tokens; without its tokenizer, an estimate that is never too low."""
    if tokenizer_file is None:
        return lambda text: math.ceil(len(text.encode()) / 2)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _limit_worker(memory_mb: int) -> None:
    # Ctrl-C reaches the whole process group; the owner stops its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_mb * _MiB, memory_mb * _MiB))
