"""A small stand-in for the backend's Files and Vector Stores API, over real HTTP.

`test_main.py` runs the same tests against this and against the real backend. What only the stand-in
can do on command: refuse an upload, hold files back unfinished, go away in the middle.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

JSON = dict[str, Any]
NO_FILE = (404, "No such file.")


@dataclass
class Entry:
    """A file in a store."""

    id: str
    attributes: JSON
    status: str = "in_progress"
    error: str | None = None
    sequence: int = 0


@dataclass
class FakeBackend:
    """Its state, which tests may look into and change; use as a context manager."""

    key: str | None = None
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    """{file name: (HTTP status, sentence)} for uploads."""
    indexing: threading.Event = field(default_factory=threading.Event)
    """While clear, attached files stay in progress."""
    uploaded: threading.Event = field(default_factory=threading.Event)
    """Set by the first upload."""
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    stores: dict[str, list[Entry]] = field(default_factory=dict)
    rebuilding: Counter[str] = field(default_factory=Counter)
    stopped_rebuild: str | None = None
    """Why rebuilds stop, if they do."""
    requests: Counter[str] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)
    stopped: bool = False
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def __enter__(self) -> FakeBackend:
        self.indexing.set()
        handler = type("Handler", (_Handler,), {"backend": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Go away: no connection is accepted, and those that are open break."""
        self.stopped = True
        self._server.shutdown()
        self._server.server_close()

    def settle(self, entries: list[Entry], entry: Entry) -> None:
        """Finish a file, and retire the version that it replaces."""
        if entry.status != "in_progress" or not self.indexing.is_set():
            return
        if not self.files[entry.id][1]:
            entry.status, entry.error = "failed", "The file is empty."
            return
        entry.status = "completed"
        path = entry.attributes.get("path")
        for old in [e for e in entries if e.attributes.get("path") == path and e is not entry]:
            if old.sequence < entry.sequence:
                entries.remove(old)
                self.files.pop(old.id, None)


class _Handler(BaseHTTPRequestHandler):
    backend: FakeBackend
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else each answer waits for an acknowledgement

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        if self.backend.stopped:
            self.close_connection = True
            return
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if url.path == "/health":
            self._answer(200, {"status": "ok", "service": "rag-backend"})
            return
        if self.backend.key and self.headers["authorization"] != f"Bearer {self.backend.key}":
            self._refuse(401, "This backend needs an API key.")
            return
        for method, pattern, act in _ROUTES:
            match = re.fullmatch(pattern, url.path)
            if match and method == self.command:
                with self.backend.lock:
                    self.backend.requests[f"{method} {act.__name__}"] += 1
                    try:
                        self._answer(200, act(self, *match.groups()))
                    except LookupError as error:
                        self._refuse(*error.args)
                return
        self._refuse(404, f"No route {self.command} {url.path}")

    def _answer(self, status: int, body: JSON) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, message: str) -> None:
        kind = {"type": "invalid_request_error", "param": None, "code": None}
        self._answer(status, {"error": {"message": message, **kind}})

    def _entries(self, store: str) -> list[Entry]:
        if store not in self.backend.stores:
            raise LookupError(404, f"No vector store {store}.")
        return self.backend.stores[store]

    def _entry(self, store: str, file_id: str) -> Entry:
        found = [entry for entry in self._entries(store) if entry.id == file_id]
        if not found:
            raise LookupError(*NO_FILE)
        self.backend.settle(self.backend.stores[store], found[0])
        return found[0]

    # Routes

    def create_store(self) -> JSON:
        name = json.loads(self.body)["name"]
        self.backend.stores.setdefault(name, [])
        return self.get_store(name)

    def list_stores(self) -> JSON:
        listed = [self.get_store(name) for name in self.backend.stores]
        return {"object": "list", "data": listed, "has_more": False}

    def get_store(self, store: str) -> JSON:
        self._entries(store)
        busy = self.backend.rebuilding[store] > 0
        if busy:
            self.backend.rebuilding[store] -= 1
        status = "in_progress" if busy else "completed"
        progress = {"done": 1, "total": 2, "error": self.backend.stopped_rebuild} if busy else None
        shown = {"id": store, "name": store, "object": "vector_store", "status": status}
        return shown | {"rebuild": progress}

    def rebuild(self, store: str) -> JSON:
        self._entries(store)
        self.backend.rebuilding[store] = 2
        return self.get_store(store)

    def list_entries(self, store: str) -> JSON:
        entries = self._entries(store)
        ids = [entry.id for entry in entries]
        after = self.query.get("after")
        if after is not None and after not in ids:
            raise LookupError(400, "`after` names no item of this list.")
        start = ids.index(after) + 1 if after else 0
        shown = entries[start : start + int(self.query["limit"])]
        return {
            "object": "list",
            "data": [_shown(store, entry) for entry in shown],
            "has_more": start + len(shown) < len(entries),
            "last_id": shown[-1].id if shown else None,
        }

    def attach(self, store: str) -> JSON:
        given = json.loads(self.body)
        entries, file_id = self._entries(store), given["file_id"]
        if file_id not in self.backend.files:
            raise LookupError(*NO_FILE)
        entries[:] = [entry for entry in entries if entry.id != file_id]
        entry = Entry(file_id, given["attributes"], sequence=next(self.backend.numbers))
        entries.append(entry)
        return _shown(store, entry)

    def get_entry(self, store: str, file_id: str) -> JSON:
        return _shown(store, self._entry(store, file_id))

    def update_entry(self, store: str, file_id: str) -> JSON:
        entry = self._entry(store, file_id)
        entry.attributes = json.loads(self.body)["attributes"]
        return _shown(store, entry)

    def upload(self) -> JSON:
        head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        parts = message_from_bytes(head + self.body, policy=policy.HTTP).iter_parts()
        part = next(p for p in parts if p.get_filename() is not None)
        name = part.get_filename() or ""
        if name in self.backend.refusals:
            raise LookupError(*self.backend.refusals[name])
        file_id = f"file-{next(self.backend.numbers)}"
        self.backend.files[file_id] = (name, part.get_payload(decode=True) or b"")
        self.backend.uploaded.set()
        return {"id": file_id, "object": "file", "filename": name}

    def list_files(self) -> JSON:
        listed = [{"id": key, "filename": name} for key, (name, _) in self.backend.files.items()]
        return {"object": "list", "data": listed, "has_more": False}

    def delete_file(self, file_id: str) -> JSON:
        if self.backend.files.pop(file_id, None) is None:
            raise LookupError(*NO_FILE)
        for entries in self.backend.stores.values():
            entries[:] = [entry for entry in entries if entry.id != file_id]
        return {"id": file_id, "object": "file", "deleted": True}


def _shown(store: str, entry: Entry) -> JSON:
    error = {"code": "invalid_file", "message": entry.error} if entry.error else None
    return {
        "id": entry.id,
        "object": "vector_store.file",
        "created_at": 0,
        "usage_bytes": 10,
        "vector_store_id": store,
        "status": entry.status,
        "last_error": error,
        "attributes": entry.attributes,
    }


_STORE = "/v1/vector_stores/([^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., JSON]], ...] = (
    ("POST", "/v1/vector_stores", _Handler.create_store),
    ("GET", _STORE, _Handler.get_store),
    ("GET", r"/v1/vector_stores", _Handler.list_stores),
    ("POST", f"{_STORE}/rebuild", _Handler.rebuild),
    ("GET", f"{_STORE}/files", _Handler.list_entries),
    ("POST", f"{_STORE}/files", _Handler.attach),
    ("GET", f"{_STORE}/files/([^/]+)", _Handler.get_entry),
    ("POST", f"{_STORE}/files/([^/]+)", _Handler.update_entry),
    ("POST", "/v1/files", _Handler.upload),
    ("GET", "/v1/files", _Handler.list_files),
    ("DELETE", "/v1/files/([^/]+)", _Handler.delete_file),
)
