"""A model that fails, and clients that leave: a real server, with others running meanwhile."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.llm_offline.bystander import COMPLETIONS, bystander, error_of, said
from tests.llm_offline.faulty import FAULTS, FOR_A_WHILE, PIPE, STEPWISE
from tests.llm_offline.processes import PATIENCE, ServerProcess, server

LONG = " mũ" * 700
"""Several chunks of a step's budget each."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("faulty")
    os.mkfifo(found / PIPE)
    return found


@pytest.fixture(scope="module")
def running(tiny_folder: Path, folder: Path) -> Iterator[ServerProcess]:
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--dtype", "fp32"]
    flags += ["--max-queue", "4", "--max-batch", "3", "--kv-memory", "0.01"]
    with server(folder, *flags, module="tests.llm_offline.faulty") as process:
        yield process.until_ready()


class Gate:
    """Lets single steps pass."""

    def __init__(self, pipe: Path) -> None:
        self._pipe = os.open(pipe, os.O_RDWR)  # both ends, so that opening does not wait

    def open(self, steps: int) -> None:
        """Let so many more steps pass."""
        os.write(self._pipe, b"." * steps)

    @property
    def unused(self) -> int:
        """Steps that may still pass."""
        waiting = fcntl.ioctl(self._pipe, termios.FIONREAD, b"\0" * 4)
        return int(struct.unpack("i", waiting)[0])

    def close(self) -> None:
        """For the next test: nothing is left in it."""
        if self.unused:
            os.read(self._pipe, self.unused)
        os.close(self._pipe)


@pytest.fixture
def gate(folder: Path) -> Iterator[Gate]:
    found = Gate(folder / PIPE)
    yield found
    found.close()


def _ask(running: ServerProcess, fault: str, *, stream: bool, **more: Any) -> dict[str, Any]:
    """The error that a request for `fault` ends with, however it is told."""
    body = {"prompt": LONG, "temperature": 0, "max_tokens": 20, "stop": [fault], **more}
    url = running.url + COMPLETIONS
    if not stream:
        answer = httpx.post(url, json=body, timeout=90)
        assert "Traceback" not in answer.text
        error: dict[str, Any] = answer.json()["error"]
        return error | {"status": answer.status_code}
    with httpx.stream("POST", url, json=body | {"stream": True}, timeout=90) as got:
        return error_of(list(got.iter_lines()))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_takes_its_own_request_only(
    running: ServerProcess, fault: str, stream: bool
) -> None:
    _, before = running.health()
    with bystander(running.url):
        error = _ask(running, fault, stream=stream)
    _, after = running.health()
    memory = "memory" in fault
    assert error["code"] == ("out_of_memory" if memory else "generation_failed")
    assert error.get("status", 0) in (0, 503 if memory else 500)
    assert after["status"] == "ok"
    assert after["out_of_memory"] - before["out_of_memory"] == memory
    assert after["step_failures"] - before["step_failures"] == (not memory)


def test_who_waits_is_answered_after_a_fault(running: ServerProcess, gate: Gate) -> None:
    """The queue outlives the failure of all that run."""
    body = {"prompt": "Xin", "temperature": 0, "max_tokens": 12}
    wanted = httpx.post(running.url + COMPLETIONS, json=body).json()["choices"][0]["text"]
    with ExitStack() as stack:
        victim = body | {"stop": [STEPWISE, FAULTS[3]], "max_tokens": 500, "stream": True}
        streams = [_open(stack, running, victim) for _ in range(3)]
        waiting = _open(stack, running, body | {"stream": True})
        _queue_is(running, running=1, waiting=3)  # the first is in a step, which takes no others
        gate.open(100)
        for stream in streams:
            assert error_of(list(stream.iter_lines()))["code"] == "generation_failed"
        assert said(list(waiting.iter_lines())) == wanted


def _open(stack: ExitStack, running: ServerProcess, body: dict[str, Any]) -> httpx.Response:
    url = running.url + COMPLETIONS
    return stack.enter_context(httpx.stream("POST", url, json=body, timeout=90))


def test_health_tells_of_a_model_that_computes_nothing_any_more(running: ServerProcess) -> None:
    """And of its recovery: a request that brought all down cannot do so for ever."""
    error = _ask(running, FOR_A_WHILE, stream=False)
    assert error["status"] == 500
    failing = running.until(lambda status, _: status == 503)
    assert (failing["status"], failing["failing"]) == ("failing", "ZeroDivisionError")
    running.until(lambda status, answer: status == 200 and answer["failing"] is None)
    with bystander(running.url):
        pass


@contextmanager
def _connected(running: ServerProcess, body: dict[str, Any]) -> Iterator[None]:
    """A client that asks, and goes away at the end without having read anything."""
    content = json.dumps(body).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(head.encode() + content)
        yield
    # The server's loop has seen the end once it has answered what came after it, some times over.
    for _ in range(5):
        running.health()


def _queue_is(running: ServerProcess, /, **wanted: int) -> None:
    running.until(lambda _, answer: wanted.items() <= answer["queue"].items())


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("steps", [1, 6], ids=["in prefill", "in decode"])
def test_a_client_that_leaves_frees_its_place_within_a_step(
    running: ServerProcess, gate: Gate, steps: int, stream: bool
) -> None:
    body = {"prompt": LONG, "temperature": 0, "max_tokens": 2000, "stream": stream}
    with bystander(running.url):
        with _connected(running, body | {"stop": [STEPWISE]}):
            gate.open(steps)
            _until(lambda: gate.unused == 0)
        gate.open(1)
        # A second step of it would wait at the gate for ever.
        running.until(lambda _, answer: answer["queue"]["running"] <= 1)
    _queue_is(running, running=0)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_client_that_leaves_the_queue_frees_its_place_at_once(
    running: ServerProcess, gate: Gate, stream: bool
) -> None:
    body = {"prompt": "Xin", "temperature": 0, "max_tokens": 2000, "stream": stream}
    held = body | {"stop": [STEPWISE]}
    with bystander(running.url):
        with _connected(running, held):
            _queue_is(running, running=2)
            with _connected(running, held):
                _queue_is(running, waiting=1)  # the first one's step is at the gate
                gate.open(1)
                _queue_is(running, waiting=0)
                with _connected(running, body):
                    _queue_is(running, waiting=1)
                # The gate is shut: no step has ended meanwhile.
                _queue_is(running, waiting=0)
        gate.open(4)
    _queue_is(running, running=0)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
