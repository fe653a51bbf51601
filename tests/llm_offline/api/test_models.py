"""A real server that is given other models while it runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.llm_offline.faulty import PIPE, STEPWISE
from tests.llm_offline.gate import Gate
from tests.llm_offline.processes import ServerProcess, server
from tests.tiny_model import build_tiny_llama

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "Xin chào 😀"}]
ENDLESS = {"messages": HELLO, "temperature": 0, "max_tokens": 2000, "stream": True}
MIB = 2**20


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "other-llama"
    return build_tiny_llama(folder, context=1024, endless=True, seed=7)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    os.mkfifo(tmp_path / PIPE)
    found = Gate(tmp_path / PIPE)
    yield found
    found.close()


@pytest.fixture
def running(tiny_folder: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    flags = ("--model", str(tiny_folder), "--device", "cpu")
    with server(tmp_path, *flags, module="tests.llm_offline.faulty") as process:
        yield process.until_ready()


@pytest.fixture
def http(running: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=90) as client:
        yield client


def _served(http: httpx.Client) -> str:
    body = {"messages": HELLO, "max_tokens": 2}
    return str(http.post(CHAT, json=body).raise_for_status().json()["model"])


def _events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


@contextmanager
def _stream(http: httpx.Client, **more: Any) -> Iterator[list[dict[str, Any]]]:
    """A stream that runs meanwhile and is read at the end."""
    chunks: list[dict[str, Any]] = []
    with http.stream("POST", CHAT, json=ENDLESS | more) as answer:
        lines = answer.iter_lines()
        next(lines)
        yield chunks
        chunks += [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def test_another_model_while_requests_run(
    http: httpx.Client, running: ServerProcess, tiny_folder: Path, other_folder: Path, gate: Gate
) -> None:
    waiting = f"serving; waiting for the last requests of {tiny_folder.name}"
    wish, events = {"model": str(other_folder)}, list[dict[str, Any]]()
    with _stream(http, stop=[STEPWISE], max_tokens=200) as chunks:
        with http.stream("POST", "/v1/models/load", json=wish) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    events.append(json.loads(line[6:]))
                    if events[-1].get("progress", {}).get("stage") == waiting:
                        gate.open(200)  # it cannot have ended before
        assert line == "" or line == "data: [DONE]"
        assert _served(http) == "other-llama"
    # What began with the old model has ended with it.
    assert {chunk["model"] for chunk in chunks} == {tiny_folder.name}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert all(event["status"] == "loading" for event in events[:-1])
    assert events[-2]["progress"]["stage"] == waiting
    end = events[-1]
    assert (end["status"], end["model"], end["replaced"]) == (
        "ready",
        "other-llama",
        tiny_folder.name,
    )
    assert end["served_meanwhile"]
    assert (end["context_length"], end["full_length_requests"]) == (1024, 16)
    assert end["weights_bytes"] > 100_000
    assert http.get("/v1/models").json()["data"][0]["id"] == "other-llama"
    # Once more: nothing to do, and one answer instead of events.
    again = http.post("/v1/models/load", json={"model": str(other_folder), "stream": False})
    assert (again.json()["replaced"], again.json()["load_seconds"]) == (None, 0)
    short = {"max_context": 64, "stream": False}
    assert http.post("/v1/models/load", json=short).json()["context_length"] == 64
    small = {"quantization": "int8", "stream": False}
    found = http.post("/v1/models/load", json=small).json()
    assert (found["quantization"], found["context_length"]) == ("int8", 64)
    # By its name, it is loaded as the server's settings say.
    whole = {"model": str(other_folder), "stream": False}
    found = http.post("/v1/models/load", json=whole).json()
    assert (found["quantization"], found["context_length"]) == ("none", 1024)
    assert "Traceback" not in running.output()


@pytest.mark.parametrize("stream", [False, True])
def test_loads_that_fail(
    http: httpx.Client, tiny_folder: Path, other_folder: Path, tmp_path: Path, stream: bool
) -> None:
    broken = Path(shutil.copytree(other_folder, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for model, sentence in [(broken, "was not copied whole"), ("./nowhere", "no such folder")]:
        answer = http.post("/v1/models/load", json={"model": str(model), "stream": stream})
        if stream:
            error = _events(answer)[-1]["error"]
        else:
            assert answer.status_code == 400
            error = answer.json()["error"]
        assert sentence in error["message"]
        assert error["code"] == "load_failed"
        assert _served(http) == tiny_folder.name
    answer = http.post("/v1/models/load", json={"max_context": 9_000, "stream": stream})
    error = _events(answer)[-1]["error"] if stream else answer.json()["error"]
    assert error["message"].startswith("max_context 9000 is more than the 4096 tokens")
    assert error["param"] == "max_context"
    refused = http.post("/v1/models/load", json={"quantization": "2bit", "stream": stream})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "quantization"
    assert "Traceback" not in refused.text


def test_unloaded(http: httpx.Client, running: ServerProcess, tiny_folder: Path) -> None:
    other = http.post("/v1/models/unload", json={"model": "other"})
    assert other.json()["error"]["code"] == "model_not_found"
    with _stream(http) as chunks:
        pass
    done = http.post("/v1/models/unload", json={}).json()
    assert done == {"status": "unloaded", "model": tiny_folder.name}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    refused = http.post(CHAT, json={"messages": HELLO})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "unloaded"
    status, health = running.health()
    assert (status, health["status"]) == (503, "unloaded")
    assert "llm_offline_model_loaded 0" in http.get("/metrics").text
    http.post("/v1/models/load", json={"stream": False}).raise_for_status()
    assert _served(http) == tiny_folder.name
    assert "llm_offline_model_loaded 1" in http.get("/metrics").text


def test_in_its_place_where_both_have_no_room(tmp_path: Path, tiny_folder: Path) -> None:
    """Models that could use more memory for keys and values than there is."""
    first = build_tiny_llama(tmp_path / "first", context=4_000_000, endless=True)
    second = Path(shutil.copytree(first, tmp_path / "second"))
    broken = Path(shutil.copytree(first, tmp_path / "broken"))
    (broken / "tokenizer.json").write_text("{}", encoding="utf-8")
    flags = ["--model", str(first), "--device", "cpu", "--max-batch", "64"]
    with (
        server(tmp_path, *flags) as process,
        httpx.Client(base_url=process.until_ready().url, timeout=90) as http,
    ):
        with _stream(http) as chunks:
            pass
        loaded = http.post("/v1/models/load", json={"model": str(second), "stream": False}).json()
        assert not loaded["served_meanwhile"]
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert _served(http) == "second"
        answer = http.post("/v1/models/load", json={"model": str(broken), "stream": False})
        assert answer.status_code == 400
        assert "second serves again" in answer.json()["error"]["message"]
        assert _served(http) == "second"
        assert "Traceback" not in process.output()


def test_the_start_is_one_readable_block(running: ServerProcess) -> None:
    block = running.output().partition("ready: ")[2].splitlines()
    assert block[1].strip().startswith("weights ")
    assert block[2].strip().startswith("KV cache ")
    assert block[3].strip() == "context 4096 tokens (what the model was made for)"
    assert block[4].strip().startswith("16.0 requests of full length fit")
    assert block[5].strip() == "chat template: the model's own"


def test_idle(tmp_path: Path, tiny_folder: Path) -> None:
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--idle-unload", "1"]
    with (
        server(tmp_path, *flags) as process,
        httpx.Client(base_url=process.until_ready().url, timeout=90) as http,
    ):
        process.until(lambda _, answer: answer["status"] == "idle")
        found = http.get("/v1/models").json()["data"][0]
        assert (found["id"], found["max_model_len"]) == (tiny_folder.name, 4096)
        assert "llm_offline_model_loaded 0" in http.get("/metrics").text
        assert process.health()[1]["status"] == "idle"  # looking is not asking
        assert _served(http) == tiny_folder.name


def test_the_encoder_is_idle_too(tmp_path: Path, tiny_folder: Path) -> None:
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--idle-unload", "1"]
    with server(tmp_path, *flags) as process:
        process.until_ready().until(lambda _, answer: answer["status"] == "idle")
        vectors = _vectors_of_an_idle_encoder(process)
        threads = _threads(process)  # one of them may be on its way out
        for _ in range(3):
            assert _vectors_of_an_idle_encoder(process) == vectors
        process.until(lambda *_: _threads(process) <= threads)
        assert "all-MiniLM-L6-v2 was unloaded: nobody asked for a while" in process.output()


def _vectors_of_an_idle_encoder(process: ServerProcess) -> Any:
    """When the server is idle again, and its memory has been given back."""
    url = process.url + "/v1/embeddings"
    while True:
        answer = httpx.post(url, json={"input": "a"}, timeout=90).raise_for_status()
        before = _memory(process)
        if process.health()[1]["embeddings"]["status"] == "ready":
            break  # else it was let go before its memory was seen
    process.until(lambda _, answer: answer["embeddings"]["status"] == "not loaded")
    process.until(lambda *_: _memory(process) < before - 40 * MIB)
    return answer.json()["data"]


def _threads(process: ServerProcess) -> int:
    return psutil.Process(process.process.pid).num_threads()


def _memory(process: ServerProcess) -> int:
    return int(psutil.Process(process.process.pid).memory_info().rss)


def _large(folder: Path, tokenizer: Path) -> Path:
    """A model of about 200 MiB."""
    shutil.copytree(tokenizer, folder)
    config = LlamaConfig.from_pretrained(folder)
    config.update({"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 3})
    config.update({"num_attention_heads": 8, "head_dim": 128})
    with torch.random.fork_rng():
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_memory_is_given_back(tmp_path: Path, tiny_folder: Path, dtype: str) -> None:
    large = _large(tmp_path / "large", tiny_folder)
    size = sum(file.stat().st_size for file in large.glob("*.safetensors"))
    size //= 1 if dtype == "fp32" else 2
    assert size > 80 * MIB
    flags = ["--model", str(tiny_folder), "--device", "cpu", "--dtype", dtype]
    with (
        server(tmp_path, *flags) as process,
        httpx.Client(base_url=process.until_ready().url, timeout=90) as http,
    ):
        _served(http)
        before = _memory(process)
        for turn in range(3):
            body = {"model": str(large), "stream": False}
            http.post("/v1/models/load", json=body).raise_for_status()
            _served(http)
            assert _memory(process) > before + 0.7 * size
            if turn < 2:
                body = {"model": str(tiny_folder), "stream": False}
                http.post("/v1/models/load", json=body).raise_for_status()
            else:
                http.post("/v1/models/unload", json={}).raise_for_status()
            # Libraries keep some buffers of their own after the first large model.
            assert _memory(process) < before + 0.5 * size


def test_validating(http: httpx.Client, tiny_folder: Path, other_folder: Path) -> None:
    report = http.post("/validate-model", json={}).json()
    assert report["loads"], report
    assert report["valid"], report
    assert report["model"] == tiny_folder.name
    assert report["chat_template"] == "the model's own"
    assert report["stop_tokens"] == ["<|end_of_text|>", "<|eot_id|>"]
    assert 0 <= report["attention_difference"] < 0.1
    assert report["generation"]["completion_tokens"] == 32
    assert report["generation"]["prefill_tokens_per_second"] > 0
    assert report["generation"]["decode_tokens_per_second"] > 0
    assert report["problems"] == []
    memory, facts = report["memory"], report["weights_bytes"] + report["kv_cache_bytes"]
    assert memory["weights_bytes"] + memory["kv_cache_bytes"] == facts
    # On a CPU keys and values are taken when they are first written.
    assert memory["used_bytes"] > memory["weights_bytes"] > 100_000
    assert 0 <= memory["generating_bytes"] < memory["used_bytes"] < memory["total_bytes"]
    assert 0 < memory["free_bytes"] < memory["total_bytes"]
    longest = http.post("/validate-model", json={"max_context": 100_000}).json()
    assert not longest["loads"]
    assert "more than the 4096 tokens" in longest["problems"][0]
    with _stream(http) as chunks:
        other = http.post("/validate-model", json={"model": str(other_folder)}).json()
        assert _served(http) == tiny_folder.name
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert (other["valid"], other["model"], other["context_length"]) == (True, "other-llama", 1024)
    # What it would take if it served, and what it took for the trial.
    assert other["kv_cache_bytes"] == 16 * other["memory"]["kv_cache_bytes"]
    quantized = http.post("/validate-model", json={"quantization": "int8"}).json()
    assert quantized["quantization"] == "int8"
    assert quantized["weights_bytes"] < report["weights_bytes"]
    assert "output layer, embeddings and norms stay in" in quantized["remarks"][0]


def test_validating_what_is_wrong(http: httpx.Client, tiny_folder: Path, tmp_path: Path) -> None:
    def report(folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = http.post("/validate-model", json={"model": str(folder)}).json()
        return found

    plain = build_tiny_llama(tmp_path / "plain", chat_template=None)
    tokenizer = plain / "tokenizer.json"
    tokenizer.write_text(
        tokenizer.read_text(encoding="utf-8").replace("<|start_header_id|>", "<|other|>"), "utf-8"
    )
    found = report(plain)
    assert found["valid"], found
    assert found["chat_template"] is None
    assert "no chat template" in found["remarks"][0]
    (plain / "config.json").unlink()
    found = report(plain)
    assert not found["valid"]
    assert not found["loads"]
    assert len(found["problems"]) == 1
    assert "it has no config.json" in found["problems"][0]
    assert _served(http) == tiny_folder.name
