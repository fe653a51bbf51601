"""Reading and chunking in worker processes: a hostile file takes down its own worker only."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import cast

import psutil
from pebble import ProcessExpired, ProcessPool

from ingest.chunking import StaticSize, split, windows
from ingest.document import Chunk
from ingest.errors import UnreadableFile
from ingest.reading.registry import read
from rag_backend.knowledge.models import new_id
from rag_backend.knowledge.spooling import Chunks, handed_over
from rag_backend.text import estimated_tokens

_MiB = 2**20
_NICE = 10
"""Readers get what requests and the encoder leave of the processor; while these wait, all of it."""

_WORDS_KNOWN = 2**16
_LONG_WORD = 64
"""Characters; longer ones do not come again."""

_Work = tuple[Path, str, Path | None, int, StaticSize | None]
"""(bytes, file name, tokenizer, most tokens, window), as `read_and_chunk` takes them."""

log = logging.getLogger(__name__)


class ReadingPool:
    """Worker processes with a time and a memory limit a file."""

    def __init__(
        self, workers: int, timeout: float, memory_mb: int, spool: Path | None = None
    ) -> None:
        """`spool` is a folder of this pool's own for the chunks of long files; None: memory."""
        self._spool = spool
        if spool is not None:
            _empty(spool)
        self._workers = workers
        self._timeout = timeout
        self._memory_mb = memory_mb
        self._pool = self._new_pool()
        self._changing = threading.Lock()
        self._closed = False

    async def read(
        self,
        path: Path,
        filename: str,
        tokenizer_file: Path | None,
        max_tokens: int,
        static: StaticSize | None = None,
    ) -> Chunks:
        """A file's chunks, along its structure unless a `static` size is given.

        Raises:
            UnreadableFile: With a sentence for the user.
        """
        work = (path, filename, tokenizer_file, max_tokens, static)
        try:
            return await self._run(work)
        except BrokenProcessPool:
            # Workers died while idle (the system was out of memory, say): that says nothing about
            # this file. A second time it does.
            try:
                return await self._run(work)
            except BrokenProcessPool as error:
                raise UnreadableFile(
                    "The processes that read files keep dying: see the backend's log, give the "
                    "machine more memory, and ingest the file again.",
                    "server_error",
                ) from error

    def close(self) -> None:
        """Stop the workers now; jobs that they had are done again at the next start."""
        with self._changing:
            self._closed = True
            self._stop()

    async def _run(self, work: _Work) -> Chunks:
        job = await asyncio.to_thread(self._schedule, work)
        try:
            return await asyncio.wrap_future(job)
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

    def _schedule(self, work: _Work) -> Future[Chunks]:
        """Synchronous; the first call starts the workers. A pool that broke is replaced."""
        with self._changing:
            if self._closed:
                refused: Future[Chunks] = Future()
                refused.cancel()
                return refused
            spool = self._spool / new_id("read-") if self._spool else None
            given = (read_and_chunk, spool, *work)
            try:
                job = self._pool.schedule(_hand_over, args=given, timeout=self._timeout)
            except RuntimeError:
                self._stop()
                self._pool = self._new_pool()
                job = self._pool.schedule(_hand_over, args=given, timeout=self._timeout)
            return cast("Future[Chunks]", job)

    def _stop(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._workers,
            max_tasks=1000,  # parsers leak; a fresh process now and then costs a second
            context=multiprocessing.get_context("spawn"),
            initializer=_limit_worker,
            initargs=(self._memory_mb,),
        )


def _hand_over(reader: Callable[..., list[Chunk]], spool: Path | None, *work: *_Work) -> Chunks:
    """What a worker does, from the bytes to what it sends back."""
    chunks = reader(*work)
    try:
        return handed_over(chunks, spool)
    except OSError as error:
        if spool is not None:
            spool.unlink(missing_ok=True)  # half of it, on a disk that is full
        raise UnreadableFile(
            f"What was read of it cannot be kept: {error.strerror or error}. Free some space on "
            "the disk that holds DATA_DIR, then ingest the file again.",
            "server_error",
        ) from error


def _empty(folder: Path) -> None:
    """What an earlier process left there is read again."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


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


def _limit_worker(memory_mb: int) -> None:
    if hasattr(os, "nice"):
        os.nice(_NICE)
    # Ctrl-C reaches the whole process group; the owner stops its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_owner, daemon=True).start()
    if sys.platform != "win32":
        _limit_memory(memory_mb * _MiB)


def _die_with_owner() -> None:
    """End a worker whose owner was killed: in the middle of a file it would not notice."""
    owner = multiprocessing.parent_process()
    if owner is not None:
        owner.join()
        os._exit(1)


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
