"""`make run`'s script: its parts against small servers, and the whole as a newcomer runs it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from rag_backend.settings import Settings
from tests.e2e.backend import PATIENCE, ROOT, environment
from tests.llm_offline.processes import free_port
from tests.openai_server import OpenAIServer, Reply
from tests.ports import never_accepting, refusing
from tests.scripts.importing import imported

SCRIPT = ROOT / "scripts" / "quickstart.py"
UP = "The backend is up; Ctrl-C stops it."


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return imported("quickstart")


class Answering(ThreadingHTTPServer):
    """Answers every request alike, and remembers the paths."""

    daemon_threads = True

    def __init__(self, status: int, body: bytes, before: Callable[[], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body, self.before = status, body, before
        self.paths: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Answering)
        self.rfile.read(int(self.headers.get("content-length", 0)))
        server.paths.append(self.path)
        server.before()
        self.send_response(server.status)
        self.send_header("content-length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing into the tests' output."""


@contextmanager
def answering(
    status: int, body: object, before: Callable[[], None] = lambda: None
) -> Iterator[Answering]:
    text = body if isinstance(body, str) else json.dumps(body)
    with Answering(status, text.encode(), before) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the backend's place, which lives until its code or the test ends."""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def envelope(message: str) -> dict[str, object]:
    return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


def answered(text: str) -> dict[str, object]:
    message = {"role": "assistant", "content": text}
    source = {"index": 1, "filename": "a.md", "page": None, "heading_path": ["Food", "Lunch"]}
    return {"choices": [{"message": message}], "citations": [source]}


def test_the_question_is_shown_before_the_wait(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, at_the_request = io.StringIO(), []
    monkeypatch.setattr(sys, "stdout", shown)
    with answering(
        200, answered("45,000 VND [1]."), lambda: at_the_request.append(shown.getvalue())
    ) as server:
        script.ask(script.Client(server.url, ""), "How much?", 1)
    assert at_the_request == ["\n  ? How much?\n"]
    assert shown.getvalue().splitlines()[2:] == [
        "  > 45,000 VND [1].",
        "    [1] a.md › Food › Lunch",
    ]


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (
            502,
            envelope("Provider 'openai' refused\n the key."),
            "Provider 'openai' refused the key.",
        ),
        (502, envelope(" "), "The backend answered with HTTP 502 and no reason."),
        (404, "<html>", "The backend answered with HTTP 404 and no reason."),
        (500, ["error"], "The backend answered with HTTP 500 and no reason."),
    ],
)
def test_a_failed_question_is_one_sentence(
    script: ModuleType,
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: object,
    sentence: str,
) -> None:
    with answering(status, body) as server:
        script.ask(script.Client(server.url, ""), "How much?", 1)
    assert capsys.readouterr().out == f"\n  ? How much?\n  ! {sentence}\n"


def test_an_answer_that_is_no_json_is_said(script: ModuleType) -> None:
    with answering(200, "<html>") as server, pytest.raises(script.Failed, match="is not JSON"):
        script.Client(server.url, "").call("/health")


def test_a_server_that_says_nothing_is_given_up(script: ModuleType) -> None:
    released = threading.Event()
    with answering(200, {}, lambda: assert_set(released)) as server:
        client = script.Client(server.url, "")
        with pytest.raises(script.Failed, match=r"^No answer from \S+ within 0\.1 s\.$"):
            client.call("/v1/models", timeout=0.1)
        released.set()
    with never_accepting() as url, pytest.raises(script.Failed, match=r"^No answer from"):
        script.Client(url, "").call("/health", timeout=0.1)


def assert_set(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


def test_a_connection_that_fails_is_said(script: ModuleType) -> None:
    with refusing() as url, pytest.raises(script.Failed, match=r"^The connection to .+ failed: "):
        script.Client(url, "").call("/health")


def test_no_proxy_comes_between(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing() as proxy, answering(200, {"status": "ok"}) as server:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        assert script.Client(server.url, "").call("/health") == {"status": "ok"}


def test_questions_are_waited_for_longer_than_the_backend_waits(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []

    def call(_path: str, _body: object, timeout: float) -> dict[str, object]:
        limits.append(timeout)
        return answered("Yes.")

    client = script.Client("http://127.0.0.1:1", "")
    monkeypatch.setattr(client, "call", call)
    script.ask(client, "How much?", 900)
    assert 900 < limits[0] <= 960


@pytest.mark.parametrize(
    ("entries", "key"),
    [
        ("", None),
        ("admin", "admin"),
        ("hoi=luat:read,admin,other", "admin"),
        ("hoi=luat:read,YWRtaW4=", "YWRtaW4="),
        ("hoi=luat:read,vao=*:write", None),
    ],
)
def test_the_first_key_with_all_rights_is_used(
    script: ModuleType, entries: str, key: str | None
) -> None:
    assert script.key_for(settings(api_keys=entries)) == key


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:30000"),
        ("0.0.0.0", "http://127.0.0.1:30000"),
        ("::", "http://[::1]:30000"),
        ("::1", "http://[::1]:30000"),
        ("rag.lan", "http://rag.lan:30000"),
    ],
)
def test_the_address_is_one_that_this_machine_reaches(
    script: ModuleType, host: str, url: str
) -> None:
    assert script.address(host, 30000) == url


def test_a_backend_that_has_ended_is_not_looked_for_elsewhere(script: ModuleType) -> None:
    with answering(200, {"status": "ok"}) as other, child("raise SystemExit(3)") as backend:
        assert not script.wait_until_listening(backend, other.server_port)
        assert script.exit_status(backend.wait()) == 3
        assert other.paths == []


def test_only_a_port_of_its_own_counts(script: ModuleType) -> None:
    with answering(200, {"status": "ok"}) as server, child("input()") as backend:
        assert not script.listens(backend.pid, server.server_port)
        assert script.listens(os.getpid(), server.server_port)
        assert not script.listens(os.getpid(), free_port())
    assert not script.listens(backend.pid, server.server_port)


def test_a_child_of_the_child_counts_too(script: ModuleType) -> None:
    port = free_port()
    listen = f"import socket; s = socket.create_server(('127.0.0.1', {port})); input()"
    launch = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {listen!r}])"
    with child(launch) as backend:
        assert script.wait_until_listening(backend, port)


def test_a_backend_that_is_not_ready_in_time_says_why(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "START_LIMIT", 0.0)
    late = {"status": "starting", "encoder": {"ready": False, "problem": "The encoder is away."}}
    with answering(200, late) as server, child("input()") as backend:
        client = script.Client(server.url, "")
        with pytest.raises(script.Failed, match=r"^After 0 s .+: The encoder is away\.$"):
            script.wait_until_ready(client, backend)


def test_without_a_key_with_all_rights_nothing_is_asked(script: ModuleType) -> None:
    bound = settings(api_keys="hoi=luat:read")
    with answering(200, {"status": "ok", "encoder": {}}) as server, child("input()") as backend:
        with pytest.raises(script.Failed, match="need a key with all rights"):
            script.show(script.Client(server.url, ""), backend, bound)
        assert server.paths == ["/health"]


def test_nothing_more_is_asked_of_a_backend_that_has_ended(script: ModuleType) -> None:
    listed = {"status": "ok", "file_counts": {"total": 1}}
    with child("input()") as backend:

        def end() -> None:
            backend.kill()
            backend.wait()

        with answering(200, listed, end) as server:
            script.show(script.Client(server.url, ""), backend, settings(api_keys=""))
            assert server.paths == ["/health", "/v1/vector_stores/default"]
        assert script.ended(backend)


def test_a_signal_that_ended_the_backend_is_named(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.exit_status(0) == 0
    assert script.exit_status(-9) == 137
    assert capsys.readouterr().err == "The backend was ended by signal 9.\n"


@contextmanager
def quickstart(
    folder: Path, port: int, **given: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The script, as a terminal starts it: a process group of its own, killed at the end."""
    folder.mkdir(exist_ok=True)
    log = folder / "quickstart.log"
    plain = {"PORT": str(port), "DATA_DIR": str(folder / "data"), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            cwd=folder,
            env=environment(**plain | given),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process, log
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(PATIENCE) == 0, log.read_text("utf-8")
        assert "Traceback" not in log.read_text("utf-8")


def until_up(process: subprocess.Popen[bytes], log: Path) -> str:
    """What was shown until it was up."""
    deadline = time.monotonic() + PATIENCE
    while UP not in log.read_text("utf-8"):
        assert process.poll() is None, log.read_text("utf-8")
        assert time.monotonic() < deadline, log.read_text("utf-8")
        time.sleep(0.1)
    return log.read_text("utf-8")


@pytest.mark.slow
def test_it_starts_ingests_asks_twice_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    port = free_port()
    with quickstart(tmp_path, port) as (process, log):
        shown = until_up(process, log)
        assert "45,000 VND" in shown
        assert re.search(r"\[1\] Sổ tay giao thông\.pdf, page \d", shown)
        assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE).status_code == 200
        second_start_is_refused(tmp_path / "second", port)
    with quickstart(tmp_path, port) as (process, log):
        shown = until_up(process, log)
        assert "handbook.md" in shown
        assert "added" not in shown


def second_start_is_refused(folder: Path, port: int) -> None:
    with quickstart(folder, port) as (process, log):
        assert process.wait(PATIENCE) == 1
        shown = log.read_text("utf-8")
        assert f"Port {port} is in use" in shown
        assert UP not in shown
        assert "?" not in shown.partition("is in use")[2]


@pytest.mark.slow
def test_a_port_that_somebody_holds_in_silence_ends_it(tmp_path: Path) -> None:
    with never_accepting() as url:
        port = int(url.rpartition(":")[2])
        with quickstart(tmp_path, port) as (process, log):
            assert process.wait(PATIENCE) == 1
            assert f"Port {port} is in use" in log.read_text("utf-8")


@pytest.mark.slow
def test_failed_questions_leave_it_up_with_the_reason(tmp_path: Path) -> None:
    given = {"LLM_PROVIDER": "local", "LLM_FALLBACK": "none", "API_KEYS": "hoi=luat:read,admin"}
    with OpenAIServer() as upstream:
        upstream.default = Reply.error(401)
        given["LOCAL_LLM_API_URL"] = upstream.url
        with quickstart(tmp_path, free_port(), **given) as (process, log):
            shown = until_up(process, log)
    assert shown.count("\n  ? ") == 2
    assert shown.count("\n  ! ") == 2
    assert "wants an API key (401)" in shown
    assert re.search(r"^added +examples/company/handbook\.md$", shown, re.MULTILINE)
    assert re.search(r"your own documents: .* --api-key KEY$", shown, re.MULTILINE)
