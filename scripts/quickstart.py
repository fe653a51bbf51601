"""What `make run` does: start the backend, ingest `examples/` once, ask twice, stay up.

Everything it does, it does over HTTP or through the same commands that a user types.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from rag_backend.errors import StartError
from rag_backend.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = (
    "How much is the lunch allowance?",
    "Tài xế phải giữ khoảng cách bao nhiêu giây với xe phía trước khi trời mưa?",
)
START_LIMIT = 120.0  # seconds


def main() -> int:
    """Run the show; the exit status."""
    os.chdir(ROOT)  # .env and ./data are the checkout's, wherever this was called from
    try:
        settings = load_settings()
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    anywhere = settings.host in ("0.0.0.0", "::")
    url = f"http://{'127.0.0.1' if anywhere else settings.host}:{settings.port}"
    client = Client(url, settings.api_keys[0].get_secret_value() if settings.api_keys else "")
    # A stop by `kill` cleans up as Ctrl-C does, even where a shell started this with it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    environment = dict(os.environ)
    if "log_level" not in settings.model_fields_set:
        environment["LOG_LEVEL"] = "warning"  # a line a request would bury what is shown here
    backend = subprocess.Popen([sys.executable, "-m", "rag_backend.main"], env=environment)
    try:
        if not wait_until_ready(client, backend):
            return backend.wait() or 1
        ingest_examples(client)
        for question in QUESTIONS:
            ask(client, question)
        say_what_next(url)
        return backend.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        stop(backend)


class Client:
    """JSON over HTTP."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """GET, or POST where there is a body; the JSON answer."""
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=120) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


def wait_until_ready(client: Client, backend: subprocess.Popen[bytes]) -> bool:
    """Whether /health answered 200 before the backend gave up or the limit passed."""
    limit = time.monotonic() + START_LIMIT
    while backend.poll() is None and time.monotonic() < limit:
        try:
            if client.call("/health")["status"] == "ok":
                return True
        except (urllib.error.URLError, OSError, ValueError):
            pass
        time.sleep(0.2)
    return False


def ingest_examples(client: Client) -> None:
    """The first time only: a user who removed the examples does not want them back."""
    if client.call("/v1/vector_stores/default")["file_counts"]["total"]:
        return
    command = [sys.executable, "-m", "ingest", "examples", "--url", client.url]
    environment = os.environ | {"RAG_BACKEND_API_KEY": client.key}
    subprocess.run(command, env=environment, check=False)


def ask(client: Client, question: str) -> None:
    """Ask over HTTP, as any OpenAI client would, and print the answer with its sources."""
    body = {"messages": [{"role": "user", "content": question}]}
    answer = client.call("/v1/chat/completions", body)
    print(f"\n  ? {question}")
    for line in answer["choices"][0]["message"]["content"].splitlines():
        print(textwrap.fill(line, 96, initial_indent="  > ", subsequent_indent="    "))
    for source in answer["citations"]:
        page = f", page {source['page']}" if source["page"] else ""
        path = "".join(f" › {heading}" for heading in source["heading_path"])
        print(f"    [{source['index']}] {source['filename']}{page}{path}")


def say_what_next(url: str) -> None:
    """Where everything is, and how to go on."""
    ingest = ".venv/bin/python -m ingest PATH"
    if not url.endswith(":30000"):
        ingest += f" --url {url}"
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


def stop(backend: subprocess.Popen[bytes]) -> None:
    """Let the backend finish; Ctrl-C has reached it already, as part of our process group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if backend.poll() is None:
        backend.terminate()
        try:
            backend.wait(20)
        except subprocess.TimeoutExpired:
            backend.kill()


if __name__ == "__main__":
    sys.exit(main())
