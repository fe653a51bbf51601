"""Two backends as processes of their own, on one PostgreSQL and one Chroma server."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from openai import OpenAI

from tests.e2e.backend import EXAMPLES, PATIENCE, BackendProcess, backend, ingest
from tests.servers import Missing, chroma, postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL"),
]


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Settings of backends on two servers that nobody has used before."""
    try:
        with postgres() as database, chroma(tmp_path / "chroma") as vectors:
            yield {"DATABASE_URL": database.url, "CHROMA_URL": vectors}
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture
def pair(shared: dict[str, str], tmp_path: Path) -> Iterator[tuple[BackendProcess, BackendProcess]]:
    with ExitStack() as stack:
        a = stack.enter_context(backend(tmp_path / "a", **shared))
        b = stack.enter_context(backend(tmp_path / "b", **shared))
        yield a, b


def waited(condition: Callable[[], bool]) -> float:
    """Seconds until the condition came true."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + PATIENCE
        time.sleep(0.02)
    return time.monotonic() - begun


def found(client: OpenAI, query: str) -> list[str]:
    results = client.vector_stores.search("default", query=query)
    return [result.content[0].text for result in results]


def statuses(client: OpenAI) -> list[str]:
    return [file.status for file in client.vector_stores.files.list("default", limit=100)]


def test_what_one_does_the_other_shows(pair: tuple[BackendProcess, BackendProcess]) -> None:
    a, b = pair
    done = ingest(str(EXAMPLES), "--url", a.url, folder=a.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 backend(s) on it" in b.output()
    assert "p%40ss" not in a.output()
    assert "p@ss" not in a.output()
    with a.client() as one, b.client() as other:
        question = "How long is the notice period after probation?"
        waited(lambda: any("notice" in text for text in found(other, question)))
        seconds = []
        for number in range(10):
            text = f"The code of locker {number} is zx{number}zx.".encode()
            file = one.files.create(file=(f"locker{number}.md", text), purpose="user_data")
            one.vector_stores.files.create_and_poll(
                vector_store_id="default", file_id=file.id, poll_interval_ms=20
            )
            code = f"zx{number}zx"
            seconds.append(waited(lambda c=code: any(c in t for t in found(other, c))))
        print(f"completed on one, found on the other after {max(seconds):.2f} s at most")
        assert other.files.content(file.id).read() == text
        one.files.delete(file.id)
        assert not any(code in text for text in found(other, code))
        again = ingest(str(EXAMPLES), "--url", b.url, folder=b.folder)
        assert again.returncode == 0, again.stdout + again.stderr


def test_one_is_killed_and_the_other_finishes(
    pair: tuple[BackendProcess, BackendProcess],
) -> None:
    a, b = pair
    with a.client() as one, b.client() as other:
        ids = []
        for number in range(40):
            text = "\n\n".join(f"## Part {n}\n\nNote {number}. " + "Word. " * 90 for n in range(9))
            file = one.files.create(file=(f"{number}.md", text.encode()), purpose="user_data")
            ids.append(file.id)
        # All at once: however slowly they were sent, most are still to be indexed at its end.
        one.vector_stores.file_batches.create("default", file_ids=ids)
        assert a.stop(signal.SIGKILL) == -signal.SIGKILL
        left = statuses(other).count("in_progress")
        waited(lambda: set(statuses(other)) == {"completed"})
        assert len(statuses(other)) == 40
        assert left, "it was killed too late to show anything"
        assert found(other, "Note 39")
