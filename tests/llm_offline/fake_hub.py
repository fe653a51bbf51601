"""A model hub in a thread: enough of its API for `snapshot_download`."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves folders as repositories; weights wait until `release` is set.

    Attributes:
        repositories: Repository id → folder. `gated` ids answer as those that want a token.
        release: Set it to let weights through; half of a file is sent before.
        half_sent: Set once half of the weights was sent.
        requests: Paths that were asked for.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.release = threading.Event()
        self.half_sent = threading.Event()
        self.requests: list[str] = []
        self.url = ""


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub on a free port."""
    hub = FakeHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(path)
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name in self.hub.gated:
            self._send(b"{}", 403, {"X-Error-Code": "GatedRepo"})
        elif name not in self.hub.repositories:
            self._send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        elif parts[0] != "api":
            self._file(self.hub.repositories[name] / "/".join(parts[4:]))
        elif "tree" in parts:
            self._json([_entry(file) for file in sorted(self.hub.repositories[name].iterdir())])
        else:
            self._json({"id": name, "sha": REVISION, "siblings": [], "tags": []})

    def _json(self, content: object) -> None:
        self._send(json.dumps(content).encode(), 200, {"Content-Type": "application/json"})

    def _file(self, file: Path) -> None:
        content = file.read_bytes()
        held = file.suffix == ".safetensors"
        self._send(
            content, 200, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": REVISION}, held=held
        )

    def _send(
        self, content: bytes, status: int, headers: dict[str, str], *, held: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(content) // 2 if held else 0
        self.wfile.write(content[:half])
        if held:
            self.wfile.flush()
            self.hub.half_sent.set()
            self.hub.release.wait(60)
        self.wfile.write(content[half:])


def _entry(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"type": "file", "path": file.name, "size": len(content), "oid": _digest(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
