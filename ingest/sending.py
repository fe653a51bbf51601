"""Carry out a plan's jobs: send files, a few at a time, and wait until each is indexed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from ingest.client import Client, ConnectionLost, NotThere, Refused, Store, StoredFile, health
from ingest.plan import Job

SENDERS = 4
BACKLOG = 100
"""Files that may wait for the backend: a break loses little, and a status is asked of few."""
_TICK = 0.2  # seconds between two looks at the backend
_LOOKS = 4  # unfinished files asked for at a look; the backend finishes them about in order


@dataclass(frozen=True, slots=True)
class Result:
    """A job that has ended. `error` says why it failed; None when the file is stored."""

    job: Job
    error: str | None = None


class Watcher(Protocol):
    """Who is told how a run goes, in the thread that called `Sender.run`."""

    def done(self, result: Result) -> None:
        """A job has ended; called once for each."""
        ...

    def stopping(self) -> None:
        """The user has interrupted; what is being sent is still finished."""
        ...


class Sender:
    """Sends the files of one run."""

    def __init__(self, client: Client, store: Store, watcher: Watcher) -> None:
        self._client = client
        self._store = store
        self._watcher = watcher
        self._sending: dict[Future[str | None], Job] = {}
        self._indexing: dict[str, Job] = {}
        self._pause = threading.Event()
        self._looked = 0.0

    def run(self, jobs: Sequence[Job]) -> None:
        """Carry the jobs out; returns when each has ended.

        Raises:
            ConnectionLost: The backend is gone; what it was sent, it goes on with.
            KeyboardInterrupt: Files that were being sent then are sent, unless it comes twice.
        """
        waiting = deque(jobs)
        pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="send")
        try:
            while waiting or self._sending or self._indexing:
                self._submit(waiting, pool)
                self._collect()
                self._look()
        except KeyboardInterrupt:
            self._watcher.stopping()
            raise
        finally:
            self._shut(pool)

    def _submit(self, waiting: deque[Job], pool: ThreadPoolExecutor) -> None:
        while waiting and len(self._sending) + len(self._indexing) < BACKLOG:
            if len(self._sending) >= 2 * SENDERS:
                return
            job = waiting.popleft()
            self._sending[pool.submit(self._send, job)] = job

    def _send(self, job: Job) -> str | None:
        """Runs in a thread; returns the id of the file to wait for, None when nothing is left."""
        attributes = {"path": job.file.identity, "sha256": job.file.sha256}
        if job.stored is not None:
            match job.step:
                case "wait":
                    return job.stored.id
                case "relabel":
                    self._client.set_attributes(self._store, job.stored.id, attributes)
                    return None
                case "retry":
                    try:
                        self._client.attach(self._store, job.stored.id, attributes)
                        return job.stored.id
                    except NotThere:
                        pass  # its bytes are gone from the backend: send them again
                case "rename":
                    # Without a digest it counts as changed, should the upload never happen.
                    place = {"path": job.file.identity}
                    self._client.set_attributes(self._store, job.stored.id, place)
        name = PurePosixPath(job.file.identity).name
        file_id = self._client.upload(job.file.path, name)
        try:
            self._client.attach(self._store, file_id, attributes)
        except Refused:
            self._client.delete(file_id)
            raise
        return file_id

    def _collect(self) -> None:
        """Wait a moment for files to be sent, and take those that are."""
        if not self._sending:
            self._pause.wait(_TICK)
            return
        sent, _ = wait(self._sending, timeout=_TICK, return_when=FIRST_COMPLETED)
        for future in sent:
            job = self._sending.pop(future)
            try:
                file_id = future.result()
            except ConnectionLost as error:
                if health(self._client.url) == "silent":
                    raise
                self._watcher.done(Result(job, f"the connection broke while it was sent: {error}"))
            except Refused as error:
                self._watcher.done(Result(job, str(error)))
            except OSError as error:
                self._watcher.done(Result(job, (error.strerror or str(error)).lower()))
            else:
                if file_id is None:
                    self._watcher.done(Result(job))
                else:
                    self._indexing[file_id] = job

    def _look(self) -> None:
        """Ask about the files sent first, until a few are found unfinished."""
        if time.monotonic() < self._looked + _TICK:
            return
        unfinished = 0
        for file_id, job in list(self._indexing.items()):
            try:
                now = self._client.stored_file(self._store, file_id)
            except NotThere:
                result = Result(job, "it was removed or replaced by another client meanwhile")
            else:
                if now.status == "in_progress":
                    unfinished += 1
                    if unfinished == _LOOKS:
                        break
                    continue
                result = Result(job, _failure(now))
            del self._indexing[file_id]
            self._watcher.done(result)
        self._looked = time.monotonic()

    def _shut(self, pool: ThreadPoolExecutor) -> None:
        for future in self._sending:
            future.cancel()
        try:
            pool.shutdown()
        except KeyboardInterrupt:
            self._client.close()
            pool.shutdown()
            raise


def _failure(file: StoredFile) -> str | None:
    if file.status == "completed":
        return None
    return file.error or f"the backend reports it as {file.status}"
