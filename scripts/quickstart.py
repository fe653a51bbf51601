"""What `make run` does: start the backend, ingest `examples/` once, ask twice, stay up.

Everything it does, it does over HTTP or through the same commands that a user types.
"""

from __future__ import annotations

from ingest import interrupted

if __name__ == "__main__":
    interrupted.end_quietly()  # before all else: the imports below take a while

import http.client
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import psutil

from rag_backend.errors import StartError
from rag_backend.keys import parse
from rag_backend.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = (
    "How much is the lunch allowance?",
    "Tài xế phải giữ khoảng cách bao nhiêu giây với xe phía trước khi trời mưa?",
)
START_LIMIT = 120.0
"""Seconds from the open port to the first answerable question."""
MARGIN = 30.0
"""Seconds past LLM_TOTAL_TIMEOUT, in which the backend says itself what failed."""
_LOOK = 30.0
_PAUSE = 0.2
_NO_KEY = (
    "The examples need a key with all rights, and each of API_KEYS is bound to vector stores: "
    "nothing was added or asked. Put one without `=STORE:...` into API_KEYS to see them."
)

Backend = subprocess.Popen[bytes]


class Failed(Exception):
    """What could not be shown, and why, in one sentence."""


def main() -> int:
    """Run the show; the exit status."""
    os.chdir(ROOT)  # .env and ./data are the checkout's, wherever this was called from
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a console that cannot show ế must not end the run
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        settings = load_settings()
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    # A stop by `kill` cleans up as Ctrl-C does, even where a shell started this with it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(settings)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # `| head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run(settings: Settings) -> int:
    """Start the backend, show it, and leave it up until it ends; its exit status."""
    backend = start(settings)
    try:
        if wait_until_listening(backend, settings.port):
            client = Client(address(settings.host, settings.port), key_for(settings) or "")
            try:
                show(client, backend, settings)
            except Failed as failure:
                print(f"\n  ! {failure}")
            if not ended(backend):
                say_what_next(client.url, keyed=bool(settings.api_keys))
        return exit_status(backend.wait())
    finally:
        stop(backend)


def start(settings: Settings) -> Backend:
    """The backend as a child, quieter than alone unless LOG_LEVEL says otherwise."""
    environment = dict(os.environ)
    if "log_level" not in settings.model_fields_set:
        environment["LOG_LEVEL"] = "warning"  # a line a request would bury what is shown here
    with unheard():
        return subprocess.Popen([sys.executable, "-m", "rag_backend.main"], env=environment)


@contextmanager
def unheard() -> Iterator[None]:
    """What is started inside ignores Ctrl-C until it serves: we hear it, and end what we started.

    Else a Ctrl-C in the first moments would show the traceback of an interpreter that starts.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def show(client: Client, backend: Backend, settings: Settings) -> None:
    """Ingest and ask, as far as the backend lives; raises Failed with what all of it lacks."""
    wait_until_ready(client, backend)
    if settings.api_keys and not client.key:
        raise Failed(_NO_KEY)
    ingest_examples(client)
    for question in QUESTIONS:
        if backend.poll() is None:
            ask(client, question, settings.llm_total_timeout)


def address(host: str, port: int) -> str:
    """Where a backend that listens on `host` is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def key_for(settings: Settings) -> str | None:
    """The first key with all rights; None where there is none."""
    entries = parse([key.get_secret_value() for key in settings.api_keys])
    return next((key for key, grants in entries if grants is None), None)


class Client:
    """JSON over HTTP with a server of this machine."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        # http_proxy is for other machines: a proxy would look for this address on its own.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(
        self, path: str, body: dict[str, Any] | None = None, timeout: float = _LOOK
    ) -> dict[str, Any]:
        """GET, or POST where there is a body; the JSON answer.

        Raises:
            Failed: With the server's own sentence where it sent one.
        """
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with self._opener.open(request, timeout=timeout) as response:
                answer: dict[str, Any] = json.load(response)
            return answer
        except urllib.error.HTTPError as error:
            with error:
                raise Failed(sentence(error)) from error
        except (OSError, http.client.HTTPException) as error:
            raise Failed(self._lost(error, timeout)) from error
        except ValueError as error:
            raise Failed(f"What came from {self.url}{path} is not JSON.") from error

    def _lost(self, error: Exception, timeout: float) -> str:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            return f"No answer from {self.url} within {timeout:g} s."
        why = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
        return f"The connection to {self.url} failed: {why}."


def sentence(error: urllib.error.HTTPError) -> str:
    """The message in OpenAI's envelope; without one, the status."""
    try:
        message = json.load(error)["error"]["message"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        message = None
    if isinstance(message, str) and message.strip():
        return " ".join(message.split())
    return f"The backend answered with HTTP {error.code} and no reason."


def wait_until_listening(backend: Backend, port: int) -> bool:
    """Wait until the port is the backend's own; False where it ended instead.

    Whoever else holds the port is not asked anything: it might be another backend, with other
    documents, or never answer.
    """
    while backend.poll() is None:
        if listens(backend.pid, port):
            return True
        time.sleep(_PAUSE)
    return False


def listens(pid: int, port: int) -> bool:
    """Whether this process, or a child of it, has the port open.

    A child: in Windows' virtual environments, python.exe starts the real one.
    """
    try:
        process = psutil.Process(pid)
        sockets = [
            socket
            for member in (process, *process.children(recursive=True))
            for socket in member.net_connections("tcp")
        ]
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # a system that tells nobody: then that it lives must do
        return True
    return any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets)


def wait_until_ready(client: Client, backend: Backend) -> None:
    """Wait until /health says "ok" or the backend has ended; raises Failed past the limit."""
    limit = time.monotonic() + START_LIMIT
    problem = None
    while backend.poll() is None:
        try:
            health = client.call("/health")
            if health["status"] == "ok":
                return
            problem = health["encoder"].get("problem")
        except Failed as failure:
            problem = str(failure)
        if time.monotonic() > limit:
            why = f": {problem}" if problem else "."
            raise Failed(
                f"After {START_LIMIT:g} s the backend cannot answer questions yet, so the examples "
                f"were left out{why}"
            )
        time.sleep(_PAUSE)


def ingest_examples(client: Client) -> None:
    """The first time only: a user who removed the examples does not want them back."""
    if client.call("/v1/vector_stores/default")["file_counts"]["total"]:
        return
    command = [sys.executable, "-m", "ingest", "examples", "--url", client.url]
    environment = os.environ | {"RAG_BACKEND_API_KEY": client.key}
    with unheard():
        child = subprocess.Popen(command, env=environment)
    try:
        child.wait()
    finally:
        child.terminate()  # interrupted, it still finishes what it is sending
        child.wait()


def ask(client: Client, question: str, total_timeout: float) -> None:
    """Ask over HTTP, as any OpenAI client would; print the answer with its sources, or why not."""
    print(f"\n  ? {question}", flush=True)  # before the wait: a model may take minutes
    body = {"messages": [{"role": "user", "content": question}]}
    try:
        answer = client.call("/v1/chat/completions", body, total_timeout + MARGIN)
    except Failed as failure:
        print(f"  ! {failure}", flush=True)
        return
    for line in answer["choices"][0]["message"]["content"].splitlines():
        print(textwrap.fill(line, 96, initial_indent="  > ", subsequent_indent="    "))
    for source in answer["citations"]:
        page = f", page {source['page']}" if source["page"] else ""
        path = "".join(f" › {heading}" for heading in source["heading_path"])
        print(f"    [{source['index']}] {source['filename']}{page}{path}")


def ended(backend: Backend) -> bool:
    """Whether it has ended; a moment's patience, since its connections break before it is gone."""
    try:
        backend.wait(_PAUSE)
    except subprocess.TimeoutExpired:
        return False
    return True


def exit_status(code: int) -> int:
    """A child's return code as a shell shows it; says so where a signal ended the child."""
    if code >= 0:
        return code
    print(f"The backend was ended by signal {-code}.", file=sys.stderr)
    return 128 - code


def say_what_next(url: str, *, keyed: bool) -> None:
    """Where everything is, and how to go on; `keyed`: the backend asks for one of its API_KEYS."""
    ingest = ".venv/bin/python -m ingest PATH"
    if not url.endswith(":30000"):
        ingest += f" --url {url}"
    if keyed:
        ingest += " --api-key KEY"
    print(
        textwrap.dedent(
            f"""
            The backend is up; Ctrl-C stops it.
              Page      {url}/
              API       {url}/v1   (any OpenAI client)
              API docs  {url}/docs
              Add your own documents:   {ingest}
              Switch a model on:        set LOCAL_LLM_API_URL=http://HOST:8001 (llm_offline, Ollama,
                                        vLLM ...) or OPENAI_API_KEY in .env, and start again
            """
        ),
        flush=True,
    )


def stop(backend: Backend) -> None:
    """Let the backend finish; once it serves, Ctrl-C has reached it as part of our group."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if backend.poll() is None:
        backend.terminate()
        try:
            backend.wait(20)
        except subprocess.TimeoutExpired:
            backend.kill()


if __name__ == "__main__":
    sys.exit(main())
