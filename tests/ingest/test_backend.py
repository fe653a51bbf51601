"""Finding a backend, or starting one."""

from __future__ import annotations

import io
import socket
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ingest.backend import connect, started
from ingest.client import health
from ingest.display import Report
from ingest.errors import CommandError
from ingest.settings import ClientSettings
from tests.ingest.fake_backend import FakeBackend
from tests.ports import free_port

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"service": "rag-backend"}')
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def report() -> Report:
    return Report(Console(file=io.StringIO()))


def test_a_backend_that_answers_is_used(fake: FakeBackend, report: Report) -> None:
    with connect(ClientSettings(fake.url, None), report) as client:
        assert client.url == fake.url


def test_a_child_runs_for_the_duration(report: Report) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with started(url, report, (sys.executable, "-c", SERVER, str(port))):
        assert health(url) == "ready"
    assert health(url) == "silent"


def test_a_child_is_stopped_when_the_run_breaks(report: Report) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = (sys.executable, "-c", SERVER, str(port))
    with pytest.raises(KeyboardInterrupt), started(url, report, command):
        raise KeyboardInterrupt
    assert health(url) == "silent"


def test_a_child_that_ends_says_why(report: Report) -> None:
    command = (sys.executable, "-c", "print('x'); print('no encoder: install it'); exit(1)")
    with (
        pytest.raises(CommandError, match=r"could not start: no encoder: install it$"),
        started(f"http://127.0.0.1:{free_port()}", report, command),
    ):
        pass


def test_a_child_that_ends_without_a_word(report: Report) -> None:
    with (
        pytest.raises(CommandError, match="exit status 3"),
        started(f"http://127.0.0.1:{free_port()}", report, (sys.executable, "-c", "exit(3)")),
    ):
        pass


def test_a_backend_that_is_not_installed(
    report: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with (
        pytest.raises(CommandError, match="pip install"),
        started(f"http://127.0.0.1:{free_port()}", report),
    ):
        pass


def test_another_program_on_the_port(report: Report) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ingest.client._HEALTH_SECONDS", 0.2)
            with (
                pytest.raises(CommandError, match="not as this backend does"),
                connect(ClientSettings(url, None), report),
            ):
                pass


def test_without_a_url_one_is_started_at_the_default(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    settings = ClientSettings(default_url=url)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(CommandError, match=f"{url}.*not installed"), connect(settings, report):
        pass
