"""The LAN split for real: the model on one machine, the backend on another, and what goes wrong.

Whatever happens to the network or to the model's machine, the client gets an answer from who stands
in, or one clear error, and the next request after the repair is answered by the model again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.backend import BackendProcess, backend
from tests.e2e.gateway import messages
from tests.e2e.network import Machine, Missing, lan, slowly
from tests.llm_offline.processes import server
from tests.openai_server import OpenAIServer, Reply
from tests.tiny_model import build_tiny_llama

pytestmark = pytest.mark.slow

PORT, WRONG_PORT = 8001, 8002
LIMITS = {
    "LLM_CONNECT_TIMEOUT": "2",
    "LLM_FIRST_TOKEN_TIMEOUT": "6",
    "LLM_IDLE_TIMEOUT": "3",
    "LLM_TOTAL_TIMEOUT": "20",
    "LLM_LOADING_TIMEOUT": "20",
    "LLM_MAX_ATTEMPTS": "2",
    # Each case fails on purpose; the next one's first request must not be refused for it.
    "LLM_BREAKER_THRESHOLD": "0",
}
PATIENCE = 40
"""Seconds after which a client gives up; the limits above promise an end well before."""
FALLBACK = "I stand in for the model."


@dataclass
class Split:
    """The two machines, and what runs on them."""

    office: Machine
    machine: Machine
    model: Path
    standby: OpenAIServer
    backend: BackendProcess
    running: ExitStack

    def start_model(self) -> None:
        """llm_offline on its machine; returns when it is ready."""
        flags = ("--model", str(self.model), "--device", "cpu", "--host", "0.0.0.0")
        with self.machine.entered():
            starting = server(self.model.parent, *flags, port=PORT)
            self._model = self.running.enter_context(starting).until_ready()

    def kill_model(self) -> None:
        """As when its machine loses power, except that the system says that it is gone."""
        self._model.process.kill()
        self._model.wait()
        self.running.close()

    def ask(self, **more: Any) -> httpx.Response:
        """A chat completion, asked on the backend's machine."""
        body = {"messages": messages(), "max_tokens": 8, **more}
        with self.office.entered():
            url = f"{self.backend.url}/v1/chat/completions"
            return httpx.post(url, json=body, timeout=PATIENCE)

    def answerer(self, **more: Any) -> str:
        """Which provider answered."""
        answer = self.ask(**more)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["provider"])

    def error(self, **more: Any) -> dict[str, Any]:
        """What a client is told when nobody can stand in either."""
        self.standby.default = Reply.error(503, "The stand-in is down.")
        try:
            answer = self.ask(**more)
        finally:
            self.standby.default = Reply(FALLBACK)
        assert answer.status_code in (502, 503, 504), answer.text
        assert answer.headers["x-should-retry"] == "false"
        error: dict[str, Any] = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error

    @contextmanager
    def stream(self) -> Iterator[Iterator[str]]:
        """The lines of a long answer that is being streamed."""
        body = {"messages": messages(), "stream": True, "max_tokens": 3900}
        with self.office.entered():
            client = httpx.Client(timeout=PATIENCE)
            url = f"{self.backend.url}/v1/chat/completions"
            with client, client.stream("POST", url, json=body) as answer:
                assert answer.status_code == 200
                yield answer.iter_lines()


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    folder = tmp_path_factory.mktemp("lan")
    model = build_tiny_llama(folder / "tiny-llama", context=4096, endless=True)
    try:
        machines = lan()
        office, machine = machines.__enter__()
    except Missing as reason:
        pytest.skip(f"no two machines on a network: {reason}")
    try:
        with office.entered(), OpenAIServer() as standby:
            standby.default = Reply(FALLBACK)
            table = {
                "standby": {"base_url": standby.url, "model": "m"},
                "wrong": {"base_url": f"http://{machine.address}:{WRONG_PORT}", "model": "m"},
            }
            (folder / "providers.json").write_text(json.dumps({"providers": table}))
            settings = {
                "LLM_PROVIDER": "local",
                "LLM_FALLBACK": "standby",
                "LLM_PROVIDERS": str(folder / "providers.json"),
                "LOCAL_LLM_API_URL": f"http://{machine.address}:{PORT}",
            }
            with (
                backend(folder / "backend", **settings, **LIMITS) as running,
                ExitStack() as models,
            ):
                split = Split(office, machine, model, standby, running, models)
                split.start_model()
                yield split
    finally:
        machines.__exit__(None, None, None)


def _begun(lines: Iterator[str], pieces: int = 5) -> None:
    """Read until so many pieces of the answer have come."""
    while pieces:
        line = next(lines)
        pieces -= line.startswith("data: {") and '"content":""' not in line


def _ended_by(lines: Iterator[str]) -> str:
    """The error that ends a stream, after which there is nothing but its end."""
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    errors = [json.loads(event)["error"] for event in events if '"error"' in event]
    assert len(errors) == 1
    assert "error" in json.loads(events[-2])
    assert FALLBACK not in "".join(events)  # never a second beginning
    return str(errors[0]["message"])


def test_the_cable_is_cut_in_the_middle_of_a_stream(split: Split) -> None:
    with split.stream() as lines:
        _begun(lines)
        split.machine.unplug()
        try:
            assert "LLM_IDLE_TIMEOUT" in _ended_by(lines)
            assert split.answerer() == "standby"
        finally:
            split.machine.plug()
    assert split.answerer() == "local"


def test_a_firewall_that_drops_silently(split: Split) -> None:
    split.machine.drop_everything()
    try:
        assert split.answerer() == "standby"
        assert split.machine.address in split.error()["message"]
    finally:
        split.machine.drop_nothing()
    assert split.answerer() == "local"


def test_a_wrong_port(split: Split) -> None:
    assert split.answerer(model="wrong") == "standby"
    message = split.error(model="wrong")["message"]
    assert f"{split.machine.address}:{WRONG_PORT}" in message
    assert "cannot be reached" in message
    assert split.answerer() == "local"


def test_a_slow_link_that_loses_packets(split: Split) -> None:
    with ExitStack() as stack:
        try:
            stack.enter_context(slowly(split.office, split.machine, delay=0.2, loss=0.05))
        except Missing as reason:
            pytest.skip(f"no slow link: {reason}")
        began = time.monotonic()
        assert {split.answerer() for _ in range(5)} <= {"local", "standby"}
        assert time.monotonic() - began > 5 * 0.4  # there and back: the link is slow indeed
        with split.stream() as lines:
            _begun(lines, pieces=20)
    assert split.answerer() == "local"


def test_the_model_is_started_again(split: Split) -> None:
    with split.stream() as lines:
        _begun(lines)
        split.kill_model()
        assert "connection" in _ended_by(lines)
    assert split.answerer() == "standby"
    assert split.machine.address in split.error()["message"]
    split.start_model()
    assert split.answerer() == "local"
