"""`python -m ingest` as a user types it, against a backend in a process of its own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.client import health
from tests.e2e.backend import EXAMPLES, PATIENCE, BackendProcess, backend, environment, ingest
from tests.llm_offline.processes import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    with backend(tmp_path_factory.mktemp("backend"), LLM_PROVIDER="extractive") as started:
        yield started


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A copy of the examples that may be changed."""
    return Path(shutil.copytree(EXAMPLES, tmp_path / "Tài liệu"))


def counts(output: str) -> dict[str, int]:
    words = [line.split() for line in output.splitlines() if line.startswith("  ")]
    return {w[0]: int(w[1]) for w in words if len(w) == 2 and w[1].isdigit() and w[1] != "0"}


def test_the_life_of_a_folder(running: BackendProcess, documents: Path, tmp_path: Path) -> None:
    def run(*flags: str) -> tuple[int, dict[str, int], str]:
        place = ("--url", running.url, "--store", "cuộc đời")
        done = ingest(str(documents), *place, *flags, folder=tmp_path)
        assert done.stderr == "", done.stderr
        return done.returncode, counts(done.stdout), done.stdout

    number = sum(path.is_file() for path in documents.rglob("*"))
    assert run()[:2] == (0, {"added": number})
    with running.client() as client:
        before = {file.id for file in client.vector_stores.files.list("cuộc đời", limit=100)}
        uploaded = len(list(client.files.list()))
        assert run()[:2] == (0, {"unchanged": number})
        after = {file.id for file in client.vector_stores.files.list("cuộc đời", limit=100)}
        assert after == before
        assert len(list(client.files.list())) == uploaded

        handbook = documents / "company" / "handbook.md"
        text = handbook.read_text("utf-8")
        handbook.write_text(text.replace("45,000 VND", "61,000 VND"), "utf-8")
        assert run()[:2] == (0, {"replaced": 1, "unchanged": number - 1})
        found = client.vector_stores.search("cuộc đời", query="How much is the lunch allowance?")
        texts = [part.text for hit in found for part in hit.content]
        assert any("61,000 VND" in text for text in texts)
        assert not any("45,000 VND" in text for text in texts)

        (documents / "company" / "offices.csv").unlink()
        status, counted, output = run("--delete-missing")
        assert (status, counted) == (0, {"removed": 1, "unchanged": number - 1})
        assert "removed   Tài liệu/company/offices.csv" in output
        found = client.vector_stores.search("cuộc đời", query="Berth 9 Dinh Vu Port Vu Hai Yen")
        assert "offices.csv" not in {hit.filename for hit in found}

        (documents / "hỏng.docx").write_bytes(b"PK\x03\x04 not a document")
        status, counted, output = run()
        assert (status, counted) == (1, {"failed": 1, "unchanged": number - 1})
        assert output.splitlines()[-1].startswith("  Tài liệu/hỏng.docx: ")


def test_a_backend_is_started_and_stopped(documents: Path, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / ".env").write_text(f"PORT={port}\n", "utf-8")
    for expected in ("added", "unchanged"):
        done = subprocess.run(
            [sys.executable, "-m", "ingest", str(documents / "traffic")],
            cwd=tmp_path,
            env=environment(PORT="", DATA_DIR=str(tmp_path / "data")),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert counts(done.stdout) == {expected: 3}
        assert done.stdout.startswith("Starting the backend")
        assert health(f"http://127.0.0.1:{port}") == "silent"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_continued(
    running: BackendProcess, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for at in range(150):
        (folder / f"{at}.txt").write_text(f"Biên bản số {at} của kho {at * 7}.\n", "utf-8")
    place = [str(folder), "--url", running.url, "--store", f"ngắt {number}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ingest", *place],
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in its background with Ctrl-C ignored; these tests may be there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        # Not when the first is reported: on a busy machine all may be stored by then.
        with running.client() as client:
            before = sum(1 for _ in client.files.list())
            while sum(1 for _ in client.files.list()) == before:
                assert process.poll() is None, process.communicate()
        process.send_signal(number)
        out, err = process.communicate()
    finally:
        watchdog.cancel()
    assert process.returncode == 130, err
    assert "Stopping" in out
    assert err == "ingest: interrupted; running the same command again continues\n"
    again = ingest(*place, folder=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    with running.client() as client:
        listed = list(client.vector_stores.files.list(f"ngắt {number}", limit=100))
    assert len(listed) == 150
    assert {file.status for file in listed} == {"completed"}
    assert len({(file.attributes or {})["path"] for file in listed}) == 150


def test_two_runs_over_one_folder_at_the_same_time(running: BackendProcess, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    for at in range(40):
        (folder / f"{at}.txt").write_text(f"Biên bản số {at} của kho {at * 7}.\n", "utf-8")
    place = [str(folder), "--url", running.url, "--store", "hai người"]
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "ingest", *place],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=PATIENCE) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert [sum(counts(out).values()) for out, _ in outputs] == [40, 40]
    with running.client() as client:
        listed = list(client.vector_stores.files.list("hai người", limit=100))
    assert len(listed) == 40


def test_nobody_reads_the_output(running: BackendProcess, documents: Path, tmp_path: Path) -> None:
    place = ("--url", running.url, "--store", "ống")
    assert ingest(str(documents), *place, folder=tmp_path).returncode == 0
    command = f'"{sys.executable}" -m ingest list {" ".join(place)} | true'
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stderr == ""
