"""The command line under test, against a stand-in for the backend and against the real one."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ingest.client import Client, StoredFile
from ingest.main import main
from tests.e2e.backend import BackendProcess, backend
from tests.ingest.fake_backend import FakeBackend

_store_numbers = itertools.count(1)


@dataclass
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str

    def counts(self) -> dict[str, int]:
        """The summary."""
        words = [line.split() for line in self.out.splitlines() if line.startswith("  ")]
        return {w[0]: int(w[1]) for w in words if len(w) == 2 and w[1].isdigit() and w[1] != "0"}


@dataclass
class CommandLine:
    """`python -m ingest` in this process, with a store of its own."""

    url: str
    store: str
    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str | Path) -> Result:
        given = [str(argument) for argument in arguments]
        status = main([*given, "--url", self.url, "--store", self.store])
        captured = self.capture.readouterr()
        assert "Traceback" not in captured.err
        return Result(status, captured.out, captured.err)

    def stored(self) -> dict[str, StoredFile]:
        """What the store holds, by file name."""
        with Client(self.url, None) as client:
            files = client.stored_files(client.store(self.store))
        return {Path(file.path or "").name: file for file in files}


@pytest.fixture(autouse=True)
def _process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `main` changes in its process, and what it would read there, stays out of the tests."""
    for name in ("RAG_BACKEND_URL", "RAG_BACKEND_API_KEY", "PORT"):
        monkeypatch.delenv(name, raising=False)
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def fake() -> Iterator[FakeBackend]:
    """The stand-in."""
    with FakeBackend() as running:
        yield running


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    """The real backend, in a process of its own."""
    with backend(tmp_path_factory.mktemp("backend")) as running:
        yield running


@pytest.fixture
def on_fake(fake: FakeBackend, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line against the stand-in."""
    return CommandLine(fake.url, "kho", capsys)


@pytest.fixture(params=["fake", "real"])
def ingest(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line against the one and against the other."""
    running = request.getfixturevalue(request.param)
    return CommandLine(running.url, f"kho-{next(_store_numbers)}", capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder of documents."""
    top = tmp_path / "tài liệu"
    (top / "con").mkdir(parents=True)
    (top / "nghỉ phép.md").write_text("# Nghỉ phép\n\nMỗi năm có 14 ngày nghỉ phép.\n", "utf-8")
    (top / "hours.txt").write_text("The office opens at 8:15 and closes at 17:45.\n", "utf-8")
    (top / "con" / "phones.csv").write_text("Name,Phone\nKhoa,7100\nYen,7430\n", "utf-8")
    return top
