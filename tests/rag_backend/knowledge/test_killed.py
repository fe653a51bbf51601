"""Real processes, killed again and again while they work: nothing is lost, doubled, or left.

`living` is killed forty times at random moments of all stages, with an encoder that costs nothing;
the whole backend, with its reading processes and its real encoder, some times more.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import pytest

from rag_backend.knowledge.encoder import EncoderLoader
from rag_backend.knowledge.followed import FollowedIndex
from tests.ports import free_port
from tests.rag_backend.knowledge.building import DirectReading, assert_agreement, build_library
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding
from tests.rag_backend.knowledge.storage import on
from tests.servers import Missing, chroma, postgres

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
KILLS = 3
LIVES, GROUPS = 5, 9
STORE = "/v1/vector_stores/default/files"
PATIENCE = 120
"""Seconds after which a condition that did not come true fails the test."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_at_every_stage(tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", "20261121"))
    print(f"KILL_SEED={seed}")
    moments = random.Random(seed)
    journal = tmp_path / "journal"
    with living(tmp_path / "data") as (commands, answers):
        for group in range(GROUPS):
            for life in range(LIVES):
                commands.write(f"live {1 + group * LIVES + life}\n")
                commands.flush()
                process = int(answers.readline())
                if moments.random() < 0.8:  # else while it starts, and recovers
                    more = size_of(journal) + moments.randint(1, 1500)
                    wait_until(lambda more=more: size_of(journal) > more)
                threading.Event().wait(moments.uniform(0, 0.4))
                os.kill(process, signal.SIGKILL)
                assert int(answers.readline()) == signal.SIGKILL, "it ended by itself"
            commands.write("settle\n")
            commands.flush()
            answers.readline()
            assert int(answers.readline()) == 0, f"group {group}: see stderr"
            complaints = [line for line in journal.read_text().splitlines() if "complaint" in line]
            assert complaints == []


def size_of(path: Path) -> int:
    """Bytes; 0 before there is one."""
    return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def living(data: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """See the module of that name."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.rag_backend.knowledge.living", str(data)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin, process.stdout:
            yield process.stdin, process.stdout
    finally:
        process.wait(timeout=PATIENCE)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("where", ["directory", "servers"])
def test_killed_at_random_moments(tmp_path: Path, where: str) -> None:
    if where == "directory":
        killed_at_random_moments(tmp_path, {})
        return
    try:
        with postgres() as database, chroma(tmp_path / "chroma") as vectors:
            settings = {"DATABASE_URL": database.url, "CHROMA_URL": vectors}
            with on((database.url, vectors), whole=True):
                killed_at_random_moments(tmp_path, settings)
    except Missing as reason:
        pytest.skip(str(reason))


def killed_at_random_moments(tmp_path: Path, settings: dict[str, str]) -> None:
    """Lives that end badly, and one that does not; then everything must be there."""
    seed = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
    print(f"KILL_SEED={seed}")
    moments = random.Random(seed)
    for life in range(KILLS):
        with backend(tmp_path, **settings) as (process, client):
            # Loading the encoder takes seconds, in which files arrive and none is read.
            threading.Timer(moments.uniform(0.5, 9.0), process.kill).start()
            workers = ingest_until_it_dies(client, process, documents(life))
            assert psutil.wait_procs(workers, timeout=PATIENCE)[1] == []
    final = documents(KILLS)
    with backend(tmp_path, **settings) as (process, client):
        ingest(client, final)
        wait_until(lambda: set(statuses(client)) == {"completed"})
        check_search(client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
    check_data(tmp_path / "data", final)


def documents(version: int) -> dict[str, bytes]:
    """{path: bytes}: the examples, and notes of which each life has a version of its own."""
    found = {
        path.relative_to(EXAMPLES).as_posix(): path.read_bytes()
        for path in sorted(EXAMPLES.rglob("*"))
        if path.is_file()
    }
    for number in range(12):
        sections = (f"## Part {n}\n\nNote {number}.{n}. " + "Words. " * 90 for n in range(12))
        text = f"# Note {number}\n\nVersion {version}.\n\n" + "\n\n".join(sections)
        found[f"notes/{number}.md"] = text.encode()
    return found


@contextlib.contextmanager
def backend(
    folder: Path, **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A backend over `folder`/data that answers, and a client of it."""
    port = free_port()
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with (folder / "log.txt").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rag_backend.main", "--port", str(port)],
            cwd=folder,
            env=kept | {"PYTHONPATH": str(ROOT), "DATA_DIR": str(folder / "data")} | settings,
            stdout=output,
            stderr=output,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            wait_until(lambda: process.poll() is not None or answers(client))
            assert process.poll() is None, (folder / "log.txt").read_text()
            yield process, client
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Any, most_seconds: float = PATIENCE) -> None:
    """Ask again and again."""
    deadline = time.monotonic() + most_seconds
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def answers(client: httpx.Client) -> bool:
    """Whether it listens; it may still be loading."""
    with contextlib.suppress(httpx.TransportError):
        return client.get("/health").status_code in (200, 503)
    return False


def ingest_until_it_dies(
    client: httpx.Client, process: subprocess.Popen[bytes], given: dict[str, bytes]
) -> list[psutil.Process]:
    """Upload, then look on; the children that the backend had."""
    seen: list[psutil.Process] = []
    with contextlib.suppress(httpx.TransportError):
        ingest(client, given)
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):
                seen = psutil.Process(process.pid).children(recursive=True) or seen
            statuses(client)
    assert process.wait(timeout=PATIENCE) == -signal.SIGKILL
    return seen


def ingest(client: httpx.Client, given: dict[str, bytes]) -> None:
    """Upload and attach each document, as the command line does."""
    for path, data in given.items():
        sent = client.post("/v1/files", files={"file": (Path(path).name, data)})
        assert sent.status_code == 200, sent.text
        body = {"file_id": sent.json()["id"], "attributes": {"path": path}}
        attached = client.post(STORE, json=body)
        assert attached.status_code == 200, attached.text


def statuses(client: httpx.Client) -> list[str]:
    """Of every file in the store."""
    listed = client.get(STORE, params={"limit": 100}).json()["data"]
    return [file["status"] for file in listed]


def check_search(client: httpx.Client) -> None:
    """The examples answer, and of the notes only the last version does."""
    asked = {"query": "How long is the notice period after probation?"}
    found = client.post("/v1/vector_stores/default/search", json=asked).json()["data"]
    assert found[0]["filename"] == "handbook.md"
    asked = {"query": f"Version {KILLS}"}
    found = client.post("/v1/vector_stores/default/search", json=asked).json()["data"]
    assert f"Version {KILLS}." in found[0]["content"][0]["text"]


def check_data(data: Path, given: dict[str, bytes]) -> None:
    """One completed file a document, with its last bytes; all stores agree, id by id."""
    library = build_library(data, EncoderLoader(FakeEmbedding), DirectReading())
    try:
        store = library.catalog.store("default")
        files = {file.identity: file for file in library.catalog.list_store_files(store.id)}
        assert len(library.catalog.list_store_files(store.id)) == len(files) == len(given)
        for path, content in given.items():
            assert files[path].status == "completed"
            assert library.blobs.fetch(files[path].file_id).read_bytes() == content
        words = library.retriever._lexical
        if isinstance(words, FollowedIndex):  # the next look, which a stop may have come before
            words.check(store)
            words.compare(store.id)
        assert_agreement(library)
    finally:
        library.retriever.close()
        library.catalog.close()
