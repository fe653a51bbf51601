"""SIGTERM in the middle of everything: all are told, and the status is 0."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.llm_offline.bystander import COMPLETIONS, error_of
from tests.llm_offline.processes import server

pytestmark = pytest.mark.slow

ENDLESS: dict[str, Any] = {"prompt": "Xin", "temperature": 0, "max_tokens": 4000}
LONG = ENDLESS | {"prompt": " mũ" * 3000, "max_tokens": 900}


def test_streams_and_plain_requests_wherever_they_are(tmp_path: Path, tiny_folder: Path) -> None:
    """In decode, in prefill and in the queue: an error event, or 503; never a text cut short."""
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--dtype", "fp32"]
    flags += ["--max-batch", "4", "--max-queue", "8"]
    with server(tmp_path, *flags) as process, ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        process.until_ready()
        url = process.url + COMPLETIONS

        def stream(body: dict[str, Any]) -> httpx.Response:
            asked = httpx.stream("POST", url, json=body | {"stream": True}, timeout=90)
            return stack.enter_context(asked)

        first = stream(ENDLESS)
        lines = first.iter_lines()
        assert next(lines).startswith("data: {")
        plain = [pool.submit(httpx.post, url, json=ENDLESS, timeout=90) for _ in range(4)]
        process.until(lambda _, answer: sum(answer["queue"].values()) - 8 == 5)
        rest = [stream(body) for body in (LONG, ENDLESS)]
        process.process.terminate()
        for response in rest:
            assert error_of(list(response.iter_lines()))["code"] == "shutting_down"
        assert error_of(list(lines))["code"] == "shutting_down"
        for answer in (future.result() for future in plain):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "shutting_down"
        assert process.wait() == 0
        assert process.output().strip().splitlines()[-1].endswith("stopped")
        assert "Traceback" not in process.output()


def test_embeddings_that_would_take_minutes(tmp_path: Path, tiny_folder: Path) -> None:
    """Each is told at once, and no thread that computes them keeps the process."""
    large = {"input": [f"{n} " + "helmet " * 240 for n in range(2048)]}
    flags = ["--model", str(tiny_folder), "--device", "cpu"]
    with server(tmp_path, *flags) as process, ThreadPoolExecutor(8) as pool:
        process.until_ready()
        url = process.url + "/v1/embeddings"
        assert httpx.post(url, json={"input": "a"}, timeout=90).status_code == 200
        asked = [pool.submit(httpx.post, url, json=large, timeout=90) for _ in range(8)]
        process.until(lambda _, answer: answer["embeddings"]["requests"] == 8)
        process.process.terminate()
        for answer in (future.result() for future in asked):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "shutting_down"
        assert process.wait() == 0
        assert process.output().strip().splitlines()[-1].endswith("stopped")
        assert "Traceback" not in process.output()


def test_while_the_encoder_is_loading(tmp_path: Path, tiny_folder: Path) -> None:
    with (
        server(tmp_path, "--model", str(tiny_folder), "--device", "cpu") as process,
        ThreadPoolExecutor(1) as pool,
    ):
        process.until_ready()
        url = process.url + "/v1/embeddings"
        asked = pool.submit(httpx.post, url, json={"input": "a"}, timeout=90)
        process.until(lambda _, answer: answer["embeddings"]["status"] == "loading")
        process.process.terminate()
        assert asked.result().json()["error"]["code"] == "shutting_down"
        assert process.wait() == 0
        assert "Traceback" not in process.output()


def test_a_client_that_reads_nothing_cannot_hold_the_server(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """Its stream fills all buffers; it has some seconds, and the status is 0 all the same."""
    with server(tmp_path, "--model", str(tiny_folder), "--device", "cpu") as process:
        process.until_ready()
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            deaf.connect(("127.0.0.1", process.port))
            body = json.dumps(
                ENDLESS | {"stream": True, "n": 4, "logprobs": 5, "max_tokens": 1500}
            ).encode()
            head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            deaf.sendall(head.encode() + body)
            process.until(lambda _, answer: answer["queue"]["running"] > 0)
            process.until(lambda _, answer: answer["queue"]["running"] == 0)
            process.process.terminate()
            assert process.wait() == 0
