"""The backend as a client sees it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ingest.client import Client, ConnectionLost, NotThere, Refused, health
from tests.ingest.fake_backend import FakeBackend


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A program that says the same to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def http(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


OURS = b'{"service": "rag-backend"}'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (http(200, OURS), "ready"),
        (http(503, OURS), "starting"),
        (http(500, OURS), "foreign"),
        (http(200, b"<html>router</html>"), "foreign"),
        (http(200, b"[1]"), "foreign"),
        (http(404, b""), "foreign"),
        (b"SSH-2.0-OpenSSH\r\n", "foreign"),
        (b"", "foreign"),
    ],
)
def test_who_answers(answer: bytes, expected: str) -> None:
    with answering(answer) as url:
        assert health(url) == expected


def test_nobody_answers() -> None:
    assert health("http://127.0.0.1:1") == "silent"
    assert health("http://no-such-host.invalid") == "silent"


def test_a_proxy_does_not_come_between_neighbours(
    fake: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert health(fake.url) == "ready"
    with Client(fake.url, None) as client:
        assert client.create_store("kho").name == "kho"


def test_openais_key_is_not_sent_to_the_backend(
    fake: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    fake.key = "sk-openai"
    with Client(fake.url, None) as client, pytest.raises(Refused, match="refused the key"):
        client.store("kho")


def test_the_backends_own_sentence_is_kept(fake: FakeBackend, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    fake.refusals["a.txt"] = (400, "This file is refused\nfor a reason.")
    with Client(fake.url, None) as client:
        with pytest.raises(Refused) as refused:
            client.upload(tmp_path / "a.txt", "a.txt")
        assert str(refused.value) == "This file is refused for a reason"
        with pytest.raises(NotThere):
            client.store("none")


def test_a_list_whose_page_ended_with_a_deleted_file_is_read_anew(
    fake: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.client.PAGE", 2)
    (tmp_path / "a.txt").write_text("a")
    with Client(fake.url, None) as client:
        store = client.create_store("kho")
        for number in range(5):
            file_id = client.upload(tmp_path / "a.txt", f"{number}.txt")
            client.attach(store, file_id, {"path": f"/{number}.txt"})
        entries = fake.stores["kho"]
        listed = type(entries)(entries)

        class Shrinking(list[object]):
            """Loses the file that the first page ends with, once that page is out."""

            def __getitem__(self, at: object) -> object:
                page = super().__getitem__(at)  # type: ignore[call-overload]
                if isinstance(at, slice) and at.start == 0 and len(self) == 5:
                    del self[1]
                return page

        fake.stores["kho"] = Shrinking(listed)  # type: ignore[assignment]
        assert len(client.stored_files(store)) == 4


def test_a_backend_that_is_gone(fake: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.client._RETRIES", 0)
    fake.stop()
    with Client(fake.url, None) as client, pytest.raises(ConnectionLost) as lost:
        client.store("kho")
    assert lost.value.exit_status == 1


def test_an_answer_that_is_not_json_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.client._RETRIES", 0)
    page = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n<html>"
    with (
        answering(page) as url,
        Client(url, None) as client,
        pytest.raises(Refused, match="check the URL"),
    ):
        client.store("kho")
