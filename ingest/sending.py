"""Carry out a plan's jobs: send files, a few at a time, and wait until each is indexed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from queue import Empty, SimpleQueue
from typing import Protocol

from ingest.client import Client, ConnectionLost, NotThere, Refused, Store, StoredFile, health
from ingest.plan import Job

SENDERS = 4
BACKLOG = 100
"""Files that may wait for the backend: a break loses little, and a status is asked of few."""
_TICK = 0.2  # seconds between two looks at the backend, while each finds something finished
_LONGEST_TICK = 1.0
_LOOKS = 4  # unfinished files asked for at a look; the backend finishes them about in order


@dataclass(frozen=True, slots=True)
class _Sent:
    """What became of sending: the id of the file to wait for, if any, or an error."""

    job: Job
    file_id: str | None = None
    error: Exception | None = None


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
        self._todo: SimpleQueue[Job | None] = SimpleQueue()
        self._sent: SimpleQueue[_Sent] = SimpleQueue()
        self._sending = 0
        self._indexing: dict[str, Job] = {}
        self._next_look = 0.0
        self._interval = _TICK

    def run(self, jobs: Sequence[Job]) -> None:
        """Carry the jobs out; returns when each has ended.

        Raises:
            ConnectionLost: The backend is gone; what it was sent, it goes on with.
            KeyboardInterrupt: Files that were being sent then are sent, unless it comes twice.
        """
        waiting = deque(jobs)
        # Daemons, not a ThreadPoolExecutor, which makes the interpreter wait for its threads
        # even when the user has interrupted twice.
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        try:
            while waiting or self._sending or self._indexing:
                self._submit(waiting)
                self._collect()
                self._look()
        except KeyboardInterrupt:
            self._watcher.stopping()
            raise
        finally:
            self._finish(threads)

    def _submit(self, waiting: deque[Job]) -> None:
        while (
            waiting
            and self._sending < 2 * SENDERS
            and self._sending + len(self._indexing) < BACKLOG
        ):
            self._todo.put(waiting.popleft())
            self._sending += 1

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            try:
                sent = _Sent(job, self._send(job))
            except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
                sent = _Sent(job, error=error)
            self._sent.put(sent)

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
        """Take the files that have been sent; wait a moment if there are none."""
        patience = _TICK
        while True:
            try:
                sent = self._sent.get(timeout=patience)
            except Empty:
                return
            patience = 0
            self._sending -= 1
            self._take(sent)

    def _take(self, sent: _Sent) -> None:
        match sent.error:
            case None if sent.file_id is not None:
                self._indexing[sent.file_id] = sent.job
            case None:
                self._watcher.done(Result(sent.job))
            case ConnectionLost() as error:
                if health(self._client.url) == "silent":
                    raise error
                reason = "the connection broke while it was sent; run the command again"
                self._watcher.done(Result(sent.job, reason))
            case Refused() as error:
                self._watcher.done(Result(sent.job, str(error)))
            case OSError() as error:
                self._watcher.done(Result(sent.job, (error.strerror or str(error)).lower()))
            case error:
                raise error

    def _look(self) -> None:
        """Ask about the files sent first, until a few are found unfinished."""
        if time.monotonic() < self._next_look:
            return
        before, unfinished = len(self._indexing), 0
        anew: list[StoredFile] | None = None  # the store's files, read once a look at most
        for file_id, job in list(self._indexing.items()):
            try:
                now = self._client.stored_file(self._store, file_id)
            except NotThere:
                del self._indexing[file_id]
                anew = self._files() if anew is None else anew
                self._look_for_another(job, anew)
                continue
            if now.status == "in_progress":
                unfinished += 1
                if unfinished == _LOOKS:
                    break
                continue
            del self._indexing[file_id]
            self._watcher.done(Result(job, _failure(now)))
        finished = len(self._indexing) < before
        self._interval = _TICK if finished else min(1.5 * self._interval, _LONGEST_TICK)
        self._next_look = time.monotonic() + self._interval

    def _files(self) -> list[StoredFile]:
        try:
            return self._client.stored_files(self._store)
        except NotThere:  # the store itself has been deleted
            return []

    def _look_for_another(self, job: Job, files: Sequence[StoredFile]) -> None:
        """End a job whose file has gone, or wait for the same file of another client.

        Two runs over one folder each send its files, and the later version retires the earlier.
        """
        file = job.file
        same = {f.status: f for f in files if (f.path, f.sha256) == (file.identity, file.sha256)}
        job = replace(job, outcome="unchanged")
        if "completed" in same:
            self._watcher.done(Result(job))
        elif "in_progress" in same:
            self._indexing[same["in_progress"].id] = job
        else:
            reason = "it was removed or replaced by another client meanwhile"
            self._watcher.done(Result(job, reason))

    def _finish(self, threads: Sequence[threading.Thread]) -> None:
        """Let what is being sent be sent, and nothing after it."""
        while True:
            try:
                self._todo.get_nowait()
            except Empty:
                break
        for _ in threads:
            self._todo.put(None)
        for thread in threads:
            thread.join()


def _failure(file: StoredFile) -> str | None:
    if file.status == "completed":
        return None
    return file.error or f"the backend reports it as {file.status}"
