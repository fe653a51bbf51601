"""A reading process as its owner sees it: started, asked, and ended when it takes too long.

What counts against its time is its own work: computing, and sleeping (a parser that waits for what
never comes). Waiting for a processor that others have, or for the disk, does not count: a machine
with too much to do is slow, and turns no file into a failure.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any, Protocol, cast

import orjson
import psutil

START_SECONDS = 60.0
"""Of its own work, until a process can read: it imports for one or two."""
STOPPED_SECONDS = 10.0
"""After which a process that somebody has stopped (SIGSTOP) is replaced."""
_TICK = 0.1
"""Seconds between two looks at a process that is at work."""
_MOST = 2 * _TICK
"""What one look may count as sleep: whoever looks may have waited for a processor too."""
_END_SECONDS = 30.0
"""From the end of what a process says to its own: on a busy machine, dying takes a while."""
_BEGIN = (
    "import json, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "sys.path[:] = json.loads(sys.argv[1]); "
    "from rag_backend.knowledge.reader import serve; serve()"
)


class ReaderError(Exception):
    """A reading process did not answer; it is gone."""


class TookTooLong(ReaderError):
    """It has worked for longer than it may."""


class Died(ReaderError):
    """It ended by itself; `status` is its exit status, negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a reading process ended with status {status}")
        self.status = status


class Stopped(ReaderError):
    """Somebody has stopped it."""


class CannotStart(ReaderError):
    """A process does not get as far as reading; the text says why."""


class Watched(Protocol):
    """What is looked at of a process: see psutil."""

    def status(self) -> str:
        """One of psutil's STATUS_ constants."""
        ...

    def cpu_times(self) -> Any:
        """With `user` and `system`, in seconds."""
        ...


class Effort:
    """How long a process has worked since this was made, in seconds of its own.

    Attributes:
        spent: Computing or asleep.
        stopped: In a row, by a signal, until now.
    """

    def __init__(
        self,
        process: Watched,
        clock: Callable[[], float] = time.monotonic,
        tells_states: bool = sys.platform != "win32",
    ) -> None:
        """`tells_states`: Windows calls any process running; there, all time is its own."""
        self._process = process
        self._clock = clock
        self._tells_states = tells_states
        self._seen, self._computed = clock(), self._cpu()
        self.spent = self.stopped = 0.0

    def look(self) -> None:
        """Count what has passed since the last look; raises psutil.NoSuchProcess."""
        state = self._process.status() if self._tells_states else psutil.STATUS_SLEEPING
        now, cpu = self._clock(), self._cpu()
        passed, computed = min(now - self._seen, _MOST), cpu - self._computed
        self._seen, self._computed = now, cpu
        self.stopped = self.stopped + passed if state == psutil.STATUS_STOPPED else 0.0
        asleep = state in (psutil.STATUS_SLEEPING, psutil.STATUS_IDLE)
        self.spent += max(passed, computed) if asleep else computed

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


class ReaderProcess:
    """One process that reads; for one thread at a time, but for `kill`.

    Attributes:
        served: Files that it has been asked for.
    """

    def __init__(self, read: str, memory_mb: int) -> None:
        """Start it and wait until it can read; `read` names the function, `module:name`.

        Raises:
            CannotStart: It ended, or gave up, or takes for ever.
        """
        self.served = 0
        paths = json.dumps([path or "." for path in sys.path])
        try:
            # Its own code and nothing else: a child of multiprocessing would import the script that
            # its owner runs, all of it.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _BEGIN, paths],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        except OSError as error:
            raise CannotStart(error.strerror or str(error)) from error
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="reader", daemon=True).start()
        try:
            self._send({"read": read, "memory_mb": memory_mb})
            self._await(START_SECONDS)
        except Died as error:
            raise CannotStart(f"it ended with status {error.status}") from error
        except TookTooLong as error:
            raise CannotStart(f"it did nothing useful for {START_SECONDS:g} seconds") from error
        except Stopped as error:
            raise CannotStart("somebody has stopped it") from error

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return self._process.poll() is None

    def ask(self, order: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Its answer to one order; `timeout` is in seconds of its own work.

        Raises:
            ReaderError: It is gone, without an answer.
        """
        self.served += 1
        self._send(order)
        return self._await(timeout)

    def kill(self) -> None:
        """End it now; from any thread, at any time."""
        self._process.kill()

    def close(self) -> None:
        """End it, and wait until it is over."""
        self.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(OSError):  # what was not sent need not be any more
                self._process.stdin.close()

    def _listen(self) -> None:
        with cast(IO[bytes], self._process.stdout) as answers:
            for line in answers:
                self._answers.put(line)
        self._answers.put(b"")

    def _send(self, what: object) -> None:
        orders = cast(IO[bytes], self._process.stdin)
        try:
            orders.write(json.dumps(what).encode() + b"\n")
            orders.flush()
        except (OSError, ValueError) as error:
            raise self._end() from error

    def _await(self, timeout: float) -> dict[str, Any]:
        effort: Effort | None = None
        while True:
            try:
                line = self._answers.get(timeout=_TICK)
            except queue.Empty:
                line = None
            if line is not None:
                return self._understood(line)
            try:
                if effort is None:
                    effort = Effort(psutil.Process(self._process.pid))
                effort.look()
            except psutil.NoSuchProcess:
                raise self._end() from None
            if effort.spent > timeout or effort.stopped > STOPPED_SECONDS:
                self.close()
                raise TookTooLong if effort.spent > timeout else Stopped

    def _understood(self, line: bytes) -> dict[str, Any]:
        if not line:
            raise self._end()
        try:
            answer = orjson.loads(line)
        except ValueError as error:  # it died in the middle of a word
            raise self._end() from error
        if not isinstance(answer, dict):
            raise self._end()
        return answer

    def _end(self) -> Died:
        """It is over, whoever ended it."""
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            status = 1  # it has closed its pipe and goes on: of no use
        self.close()
        return Died(status)
