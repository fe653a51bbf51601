"""PostgreSQL dies and comes back while two backends ingest and search."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from openai import APIStatusError, OpenAI

from tests.e2e.backend import PATIENCE, backend
from tests.servers import Missing, chroma, postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform == "win32", reason="pg_ctl"),
]

RESTARTS = 3
SEED = 7


class Client(threading.Thread):
    """Puts files in and searches, all the time; what was refused is counted and not asked again."""

    def __init__(self, client: OpenAI, name: str) -> None:
        super().__init__(daemon=True)
        self.taken: dict[str, str] = {}
        self.answers: Counter[int] = Counter()
        self.refusals: set[tuple[str | None, str]] = set()
        self.ended = threading.Event()
        self.problem: BaseException | None = None
        self._client = client
        self._called = name

    def run(self) -> None:
        """Until `ended`."""
        number = 0
        try:
            while not self.ended.is_set():
                number += 1
                self._step(number)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.problem = error

    def _step(self, number: int) -> None:
        word = f"{self._called}{number}x"
        try:
            text = f"# Entry\n\nThe word is {word}.".encode()
            file = self._client.files.create(file=(f"{word}.md", text), purpose="user_data")
            self._client.vector_stores.files.create("default", file_id=file.id)
            self.taken[file.id] = word
            self._client.vector_stores.search("default", query=word)
            self.answers[200] += 1
        except APIStatusError as error:
            self.answers[error.status_code] += 1
            self.refusals.add((error.code, str(error)))
            self.ended.wait(0.05)


def test_postgresql_restarts_in_the_middle(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    moves = random.Random(SEED)
    with ExitStack() as stack:
        try:
            database = stack.enter_context(postgres())
            vectors = stack.enter_context(chroma(tmp_path / "chroma"))
        except Missing as reason:
            pytest.skip(str(reason))
        shared = {"DATABASE_URL": database.url, "CHROMA_URL": vectors}
        backends = [stack.enter_context(backend(tmp_path / name, **shared)) for name in "ab"]
        sdks = [stack.enter_context(each.client()) for each in backends]
        clients = [Client(sdk, name) for sdk, name in zip(sdks, ("ka", "lo"), strict=True)]
        for client in clients:
            client.start()
        for _ in range(RESTARTS):
            _until(_grown(clients, 200, 3))
            threading.Event().wait(moves.uniform(0, 0.3))  # anywhere in what they do
            refused = _grown(clients, 503, 1)
            database.stop("immediate")
            _until(refused)
            database.start()
        _until(_grown(clients, 200, 3))
        for client in clients:
            client.ended.set()
            client.join(PATIENCE)
            assert client.problem is None, client.problem
        _check(clients, sdks)
        assert all(each.process.poll() is None for each in backends)
        for each in backends:
            assert "Traceback" not in each.output()


def _grown(clients: list[Client], status: int, more: int) -> Callable[[], bool]:
    """Whether each client has had so many more answers of this status since now."""
    before = [client.answers[status] for client in clients]

    def grown() -> bool:
        now = [client.answers[status] for client in clients]
        return all(b >= a + more for a, b in zip(before, now, strict=True))

    return grown


def _check(clients: list[Client], sdks: list[OpenAI]) -> None:
    """Only clear refusals; every file that was taken is found on both backends."""
    for client in clients:
        assert set(client.answers) <= {200, 503}, (client.answers, client.refusals)
        for code, message in client.refusals:
            assert code == "storage_unavailable", message
            assert "PostgreSQL" in message
    deadline = time.monotonic() + PATIENCE
    while any(f.status == "in_progress" for f in sdks[0].vector_stores.files.list("default")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    listed = {file.id: file for file in sdks[1].vector_stores.files.list("default", limit=100)}
    for file in listed.values():
        assert file.status == "completed" or file.last_error is not None
    words = {file_id: word for client in clients for file_id, word in client.taken.items()}
    assert words.keys() <= listed.keys()
    assert {listed[file_id].status for file_id in words} == {"completed"}
    for sdk in sdks:
        for file_id, word in list(words.items())[-10:]:
            while sdk.vector_stores.search("default", query=word).data[0].file_id != file_id:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
