"""`python -m rag_backend.main` as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from rag_backend import main
from rag_backend.settings import Settings, load_settings
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 90
COMMAND = [sys.executable, "-m", "rag_backend.main"]


def environment(**settings: str) -> dict[str, str]:
    ours = {name.upper() for name in Settings.model_fields}
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    return clean | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"} | settings


def run(folder: Path, *flags: str, **settings: str) -> tuple[int, str, str]:
    """A start that is expected to fail: exit status, stdout, stderr."""
    done = subprocess.run(
        [*COMMAND, *flags],
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


@contextmanager
def started(folder: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A backend that said "Ready", and what it said before."""
    with subprocess.Popen(
        COMMAND,
        cwd=folder,
        env=environment(PORT=str(free_port()), **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith("Ready: "):
                    break
            else:
                raise AssertionError("\n".join(lines))
            yield process, lines
        finally:
            if process.poll() is None:
                process.kill()


def url_of(lines: list[str]) -> str:
    found = re.search(r"http://\S+", lines[-1])
    assert found
    return found.group().rstrip("/")


def test_help(tmp_path: Path) -> None:
    status, out, _ = run(tmp_path, "--help")
    assert status == 0
    assert "--port" in out
    assert list(tmp_path.iterdir()) == []


def test_help_and_bad_settings_load_nothing_heavy() -> None:
    code = (
        "import sys, rag_backend.main as m; m._flags([]); "
        "print([n for n in ('torch', 'chromadb', 'fastapi', 'openai') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_bad_value(tmp_path: Path) -> None:
    status, out, err = run(tmp_path, "--port", "abc", CONDENSE="odd", OPENAI_API_KEY="sk-secret")
    assert status == 1
    assert out == ""
    first, second = err.splitlines()
    assert "PORT='abc' is not allowed" in first + second
    assert "CONDENSE='odd' is not allowed" in first + second
    assert "secret" not in err


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://localhost:4000"),
        ("0.0.0.0", "http://localhost:4000"),
        ("::", "http://localhost:4000"),
        ("::1", "http://[::1]:4000"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:4000"),
        ("192.168.1.20", "http://192.168.1.20:4000"),
        ("rag.lan", "http://rag.lan:4000"),
    ],
)
def test_the_address_can_be_opened_as_it_is_shown(host: str, url: str) -> None:
    assert main.url_of(load_settings(host=host, port=4000)) == url


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ({}, "python -m ingest PATH"),
        ({"port": 4000}, "python -m ingest PATH --url http://localhost:4000"),
        ({"host": "::1"}, "python -m ingest PATH --url http://[::1]:30000"),
        (
            {"api_keys": "s3cret"},
            "python -m ingest PATH --api-key KEY   (KEY: one of API_KEYS that may write)",
        ),
    ],
)
def test_the_next_command_works_as_it_is_shown(settings: dict[str, Any], command: str) -> None:
    assert main.how_to_add(load_settings(**settings)) == f"Add documents: {command}"


@pytest.mark.slow
def test_a_password_in_a_url_is_not_printed(tmp_path: Path) -> None:
    bad = run(tmp_path, OPENAI_BASE_URL="ftp://me:hunter2@host")
    port_in_use = run(tmp_path, "--host", "192.0.2.1", CHROMA_URL="http://me:hunter2@host:1")
    for status, out, err in (bad, port_in_use):
        assert status == 1
        assert "hunter2" not in out + err
    assert re.search(r"CHROMA_URL +http://\*{4}@host:1\n", port_in_use[1])


@pytest.mark.slow
def test_postgresql_needs_a_chroma_server_and_an_answer(tmp_path: Path) -> None:
    url = "postgresql://rag:hunter2@127.0.0.1:1/rag"
    alone = run(tmp_path, "--port", str(free_port()), DATABASE_URL=url)
    away = run(
        tmp_path, "--port", str(free_port()), DATABASE_URL=url, CHROMA_URL="http://127.0.0.1:1"
    )
    assert alone[0] == away[0] == 1
    assert "DATABASE_URL needs CHROMA_URL" in alone[2]
    assert "PostgreSQL at 127.0.0.1:1/rag (DATABASE_URL) cannot be used" in away[2]
    assert len(away[2].splitlines()) == 1
    assert "hunter2" not in alone[1] + alone[2] + away[1] + away[2]


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"DATA_DIR=\xff\xfe")
    status, _, err = run(tmp_path)
    assert (status, len(err.splitlines())) == (1, 1)
    assert "save it as UTF-8" in err


def test_a_provider_that_is_not_configured(tmp_path: Path) -> None:
    status, _, err = run(tmp_path, "--port", str(free_port()), LLM_PROVIDER="openai")
    assert status == 1
    assert "OPENAI_API_KEY" in err


@pytest.mark.parametrize("name", ["LOCAL_LLM_API_URL", "EMBEDDING_URL", "CHROMA_URL"])
def test_a_backend_that_would_ask_itself(tmp_path: Path, name: str) -> None:
    port = str(free_port())
    status, _, err = run(tmp_path, "--port", port, **{name: f"http://localhost:{port}"})
    assert status == 1
    assert f"{name} is this backend's own address (http://localhost:{port}" in err
    assert "8001" in err


def test_an_example_in_a_message_is_no_secret(tmp_path: Path) -> None:
    for name, form in (
        ("DATABASE_URL", "postgresql://USER:PASSWORD@HOST/DATABASE"),
        ("CACHE_URL", "redis://:PASSWORD@192.168.1.20:6379/0"),
    ):
        status, _, err = run(tmp_path, **{name: "mysql://me:hunter2@host"})
        assert status == 1
        assert form in err
        assert "hunter2" not in err


def test_a_data_directory_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    status, _, err = run(tmp_path, "--port", str(free_port()), DATA_DIR="file")
    assert status == 1
    assert "DATA_DIR=file cannot be written to" in err


@pytest.mark.slow
def test_an_encoder_that_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, _, err = run(tmp_path, "--port", str(free_port()), EMBEDDING_MODEL="./empty")
    assert status == 1
    assert "EMBEDDING_MODEL" in err.splitlines()[-1]


@pytest.mark.slow
def test_its_life_and_a_second_start(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOCAL_LLM_URL=http://a\nCONTEXT_TOKENS=999\n")
    data = tmp_path / "data"
    with started(tmp_path, OPENAI_API_KEY="sk-very-secret", LLM_PROVIDER="extractive") as (
        process,
        lines,
    ):
        url = url_of(lines)
        port = url.rpartition(":")[2]
        said = "\n".join(lines)
        assert re.search(r"CONTEXT_TOKENS +999", said)
        assert "LOCAL_LLM_URL, which no setting reads: did you mean LOCAL_LLM_API_URL?" in said
        assert "[ok] Encoder" in said
        assert "[ok] Chroma" in said
        assert "very-secret" not in said
        assert process.stdout is not None
        assert process.stdout.readline() == f"Add documents: python -m ingest PATH --url {url}\n"
        assert httpx.get(f"{url}/health", timeout=PATIENCE).json()["status"] == "ok"

        status, _, err = run(tmp_path, "--port", port)
        assert status == 1
        assert f"Port {port} is in use by process {process.pid} (" in err

        status, _, err = run(tmp_path, "--port", str(free_port()))
        assert status == 1
        assert f"DATA_DIR=data is in use by the backend with process id {process.pid}" in err
        assert f"on port {port}" in err

        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
    assert "ERROR" not in rest
    assert not (data / "owner.json").exists()
    assert psutil.wait_procs(children, timeout=PATIENCE)[1] == []


@pytest.mark.slow
def test_control_c_and_what_stays(tmp_path: Path) -> None:
    with (
        started(tmp_path) as (process, lines),
        httpx.Client(base_url=url_of(lines), timeout=PATIENCE) as client,
    ):
        body = {"messages": [{"role": "user", "content": "Xin chào"}], "stream": True}
        assert client.post("/v1/chat/completions", json=body).text.endswith("data: [DONE]\n\n")
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


def test_told_to_stop_while_it_starts(tmp_path: Path) -> None:
    with subprocess.Popen(
        COMMAND,
        cwd=tmp_path,
        env=environment(PORT=str(free_port())),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Settings")
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
    assert not (tmp_path / "data" / "owner.json").exists()


def test_a_network_without_keys_is_refused(tmp_path: Path) -> None:
    status, _, told = run(tmp_path, "--host", "0.0.0.0")
    assert status == 1
    assert "ALLOW_WITHOUT_KEYS=anyone-on-this-network" in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_rights_are_shown_and_keys_are_not(tmp_path: Path) -> None:
    keys = "s3cret,0ther=laws:read"
    with started(tmp_path, API_KEYS=keys, HOST="0.0.0.0") as (_, lines):
        told = "".join(lines)
    assert "An API key with all rights." in told
    assert "An API key with laws:read." in told
    assert "s3cret" not in told
    assert "0ther" not in told
