"""Reading and chunking in worker processes: a hostile file takes down its own worker only.

Whatever befalls a worker without the file's doing (it cannot be started, the system kills it when
memory is short, somebody stops it) is tried again, and fails no file at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from ingest.chunking import StaticSize
from ingest.errors import UnreadableFile
from rag_backend.errors import StartError
from rag_backend.knowledge.models import new_id
from rag_backend.knowledge.reader_process import (
    CannotStart,
    Died,
    ReaderProcess,
    Stopped,
    TookTooLong,
)
from rag_backend.knowledge.spooling import Chunks, Held, Spooled, from_rows

READ = "rag_backend.knowledge.reader:read_and_chunk"
"""What the workers run."""
_MOST_FILES = 1000
"""Parsers leak: a fresh process now and then costs a second."""
_TRIES = 3
"""How often a file is read whose worker is killed, until it fails for it."""
_AGAIN_SECONDS = 5.0
"""Between these: what was short of memory may have it back."""
_LONGEST_PAUSE = 30.0
"""Seconds between two attempts to start workers that do not start."""
_OUTSIDE = frozenset(
    -getattr(signal, name)
    for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
    if hasattr(signal, name)
)
"""Exit statuses of what was killed, which no parser does to itself."""

log = logging.getLogger(__name__)


class Worker(Protocol):
    """See ReaderProcess."""

    served: int

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        ...

    def ask(self, order: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Its answer; raises ReaderError, and then it is gone."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...

    def close(self) -> None:
        """End it, and wait for that."""
        ...


class _Attempt:
    """One order on its way; whoever gives it up ends the worker that has it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._given_up = False

    def has(self, worker: Worker) -> bool:
        """The worker has it; whether that is still wanted."""
        with self._lock:
            self._worker = worker
            return not self._given_up

    def is_over(self) -> None:
        """No worker has it any more."""
        with self._lock:
            self._worker = None

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._given_up = True
            if self._worker is not None:
                self._worker.kill()


class ReadingPool:
    """Worker processes with a limit of time (of their own work) and memory a file.

    Attributes:
        problem: Why nothing can be read, in a sentence; None while workers start.
    """

    def __init__(
        self,
        workers: int,
        timeout: float,
        memory_mb: int,
        spool: Path | None = None,
        *,
        start: Callable[[], Worker] | None = None,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`spool` is a folder of this pool's own for the chunks of long files; None: memory.

        `start` makes another worker than a process that reads.
        """
        self._spool = spool
        if spool is not None:
            _empty(spool)
        self._timeout = timeout
        self._memory_mb = memory_mb
        self._start = start or (lambda: ReaderProcess(READ, memory_mb))
        self._pause = pause
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="reading")
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._attempts: set[_Attempt] = set()
        self._closed = False
        self.problem: str | None = None

    async def read(
        self,
        path: Path,
        filename: str,
        tokenizer_file: Path | None,
        max_tokens: int,
        static: StaticSize | None = None,
    ) -> Chunks:
        """A file's chunks, along its structure unless a `static` size is given.

        Waits as long as workers cannot be started: see `problem`.

        Raises:
            UnreadableFile: With a sentence for the user.
        """
        spool = self._spool / new_id("read-") if self._spool else None
        order = {
            "path": str(path),
            "filename": filename,
            "tokenizer": str(tokenizer_file) if tokenizer_file else None,
            "max_tokens": max_tokens,
            "static": asdict(static) if static else None,
            "spool": str(spool) if spool else None,
        }
        try:
            return _chunks(await self._answer(order), spool, self._memory_mb)
        except BaseException:
            if spool is not None:
                spool.unlink(missing_ok=True)  # half of it
            raise

    def close(self) -> None:
        """Stop the workers now; jobs that they had are done again at the next start."""
        with self._lock:
            self._closed = True
            attempts, idle = list(self._attempts), list(self._idle)
            self._idle.clear()
        for attempt in attempts:
            attempt.give_up()
        for worker in idle:
            worker.close()
        self._threads.shutdown(cancel_futures=True)

    async def _answer(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """What a worker says; those that cannot be started, or are killed, are replaced."""
        not_started = killed = 0
        while True:
            try:
                return await self._attempt(order)
            except CannotStart as error:
                self._note(error)
                await self._pause(min(2.0**not_started, _LONGEST_PAUSE))
                not_started += 1
            except TookTooLong as error:
                raise UnreadableFile(_TOO_SLOW.format(limit=self._timeout)) from error
            except (Died, Stopped) as error:
                if self._closed:
                    raise asyncio.CancelledError from error
                if isinstance(error, Died) and error.status not in _OUTSIDE:
                    raise UnreadableFile(_CRASHED) from error
                killed += 1
                if killed == _TRIES:
                    raise UnreadableFile(_KILLED.format(times=killed), "server_error") from error
                log.warning("%s; the file is read again in %g s", error, _AGAIN_SECONDS)
                await self._pause(_AGAIN_SECONDS)

    async def _attempt(self, order: Mapping[str, Any]) -> dict[str, Any]:
        attempt = _Attempt()
        with self._lock:
            if self._closed:
                raise asyncio.CancelledError
            self._attempts.add(attempt)
            asked = self._threads.submit(self._ask, attempt, order)
        try:
            return await asyncio.wrap_future(asked)
        finally:
            attempt.give_up()  # nothing, unless this was cancelled
            with self._lock:
                self._attempts.discard(attempt)

    def _ask(self, attempt: _Attempt, order: Mapping[str, Any]) -> dict[str, Any]:
        """In a thread."""
        worker = self._take()
        try:
            if not attempt.has(worker):
                raise Stopped("nobody waits for it any more")
            answer = worker.ask(order, self._timeout)
        except BaseException:
            worker.close()
            raise
        finally:
            attempt.is_over()
        with self._lock:
            keep = not self._closed and worker.served < _MOST_FILES
            if keep:
                self._idle.append(worker)
        if not keep:
            worker.close()
        return answer

    def _take(self) -> Worker:
        """One that is idle, or a new one; raises CannotStart."""
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                break
            if worker.alive:
                return worker
            worker.close()  # killed while it was idle: that says nothing about this file
        worker = self._start()
        if self.problem is not None:
            log.info("files are read again")
            self.problem = None
        return worker

    def _note(self, error: CannotStart) -> None:
        if self.problem is None:
            log.error("a process that reads files cannot be started: %s; it is tried again", error)
        self.problem = (
            f"Files wait: a process that reads them cannot be started ({error}). Most likely the "
            "machine is short of memory or of processes; it is tried again by itself."
        )


def _chunks(answer: Mapping[str, Any], spool: Path | None, memory_mb: int) -> Chunks:
    """What a worker's answer means."""
    if "chunks" in answer:
        return Held(from_rows(answer["chunks"]))
    if "bounds" in answer and spool is not None:
        return Spooled(spool, answer["size"], tuple(answer["bounds"]))
    if "unreadable" in answer:
        raise UnreadableFile(answer["unreadable"], answer["code"])
    if "memory" in answer:
        raise UnreadableFile(
            f"Reading needed more memory than READ_MEMORY_MB={memory_mb}: split the file, or raise "
            "the limit."
        )
    if "disk" in answer:
        raise UnreadableFile(
            f"What was read of it cannot be kept: {answer['disk']}. Free some space on the disk "
            "that holds DATA_DIR, then ingest the file again.",
            "server_error",
        )
    raise RuntimeError(f"a reading process failed: {answer.get('defect', answer)}")


def _empty(folder: Path) -> None:
    """What an earlier process left there is read again; the folder itself may be a mount."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.iterdir():
            left.unlink()
    except OSError as error:
        raise StartError(
            f"{folder} cannot be used: {error.strerror or error}. The backend keeps what it has "
            "read of long files there: make it a folder that it may write to, with nothing in it."
        ) from error


_TOO_SLOW = (
    "Reading took longer than READ_TIMEOUT={limit:g} seconds, in which it had the processor for "
    "itself: split the file, or raise the limit."
)
_CRASHED = "The file made its reader crash: it is damaged, or too complex to read."
_KILLED = (
    "The process that read the file was killed or stopped from outside {times} times, most likely "
    "by the system for want of memory: give the machine more of it, or lower READ_MEMORY_MB, then "
    "ingest the file again."
)
