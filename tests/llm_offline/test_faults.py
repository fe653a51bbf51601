"""A model that fails, and clients that leave: a real server, with others running meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.llm_offline.bystander import COMPLETIONS, bystander, error_of, said
from tests.llm_offline.faulty import FAULTS, FOR_A_WHILE, PIPE, STEPWISE
from tests.llm_offline.gate import Gate
from tests.llm_offline.leaving import unread
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
    wanted = httpx.post(running.url + COMPLETIONS, json=body, timeout=90).json()["choices"][0][
        "text"
    ]
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


def _queue_is(running: ServerProcess, /, **wanted: int) -> None:
    running.until(lambda _, answer: wanted.items() <= answer["queue"].items())


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("steps", [1, 6], ids=["in prefill", "in decode"])
def test_a_client_that_leaves_frees_its_place_within_a_step(
    running: ServerProcess, gate: Gate, steps: int, stream: bool
) -> None:
    body = {"prompt": LONG, "temperature": 0, "max_tokens": 2000, "stream": stream}
    with bystander(running.url):
        with unread(running, COMPLETIONS, body | {"stop": [STEPWISE]}):
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
        with unread(running, COMPLETIONS, held):
            _queue_is(running, running=2)
            with unread(running, COMPLETIONS, held):
                _queue_is(running, waiting=1)  # the first one's step is at the gate
                gate.open(1)
                _queue_is(running, waiting=0)
                with unread(running, COMPLETIONS, body):
                    _queue_is(running, waiting=1)
                # The gate is shut: no step has ended meanwhile.
                _queue_is(running, waiting=0)
        gate.open(4)
    _queue_is(running, running=0)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_full_queue_refuses_a_task(running: ServerProcess, gate: Gate, stream: bool) -> None:
    """As it refuses everything else; here none of those before it can end meanwhile."""
    held = {"prompt": "Xin", "temperature": 0, "max_tokens": 1, "stop": [STEPWISE]}
    with ExitStack() as stack:
        for _ in range(7):  # three may run, four may wait
            stack.enter_context(unread(running, COMPLETIONS, held))
        running.until(lambda _, a: a["queue"]["running"] + a["queue"]["waiting"] == 7)
        for path, body in (("/summarize", {"text": LONG}), (COMPLETIONS, {"prompt": "Xin"})):
            refused = httpx.post(running.url + path, json=body | {"stream": stream}, timeout=90)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "queue_full"
        gate.open(20)
        _queue_is(running, running=0, waiting=0)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
