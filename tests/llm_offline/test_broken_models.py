"""Models that cannot be served: the process says why in one line, and what it can do it does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from tests.llm_offline.bystander import bystander
from tests.llm_offline.processes import server
from tests.tiny_model import build_tiny_llama

pytestmark = pytest.mark.slow

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 4943162240\n"


def _truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _not_numbers(folder: Path) -> None:
    """Whole by its form, but its weights are NaN."""
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    weights.write_bytes(content[:header] + b"\xff" * (len(content) - header))


def _wrong_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\x80\x02}q\x00.")


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _pointer(folder: Path) -> None:
    """What `git clone` leaves where Git LFS is not installed."""
    (folder / "model.safetensors").write_text(POINTER, encoding="utf-8")


def _encoder(folder: Path) -> None:
    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(folder)


BROKEN: dict[Callable[[Path], None], str] = {
    _truncated: "damaged or was not copied whole",
    _garbage: "damaged or was not copied whole",
    _pickled: "only pickled weights, which are refused",
    _not_numbers: "differs from the model's own",
    _wrong_shape: "has them in another shape (model.norm.weight",
    _no_json: "cannot be read as JSON",
    _no_tokenizer: "has no tokenizer: copy tokenizer.json",
    _pointer: "is a pointer of Git LFS and not the file itself: run",
    _encoder: "is not a causal language model",
}


def test_a_broken_checkpoint_ends_the_start_with_one_line(
    tmp_path: Path, tiny_folder: Path
) -> None:
    with ExitStack() as stack:
        started = []
        for spoil, sentence in BROKEN.items():
            folder = tmp_path / spoil.__name__
            model = shutil.copytree(tiny_folder, folder / "model")
            spoil(model)
            flags = ("--model", str(model), "--device", "cpu", "--dtype", "fp32")
            started.append((stack.enter_context(server(folder, *flags)), sentence))
        for process, sentence in started:
            assert process.wait() == 1
            assert sentence in process.output().strip().splitlines()[-1]
            assert process.output().count(sentence) == 1
            assert "Traceback" not in process.output()


def test_broken_checkpoints_disturb_nobody(tmp_path: Path, tiny_folder: Path) -> None:
    """Loaded or validated while another request runs: one sentence, and the old model serves on."""
    with (
        server(tmp_path, "--model", str(tiny_folder), "--device", "cpu") as process,
        httpx.Client(base_url=process.until_ready().url, timeout=90) as http,
    ):
        for spoil, sentence in BROKEN.items():
            model = shutil.copytree(tiny_folder, tmp_path / spoil.__name__)
            spoil(model)
            body = {"model": str(model), "stream": False}
            with bystander(process.url):
                refused = http.post("/v1/models/load", json=body)
                report = http.post("/validate-model", json={"model": str(model)}).json()
            error = refused.json()["error"]
            assert error["code"] == "load_failed", error
            assert sentence in error["message"]
            assert "\n" not in error["message"]
            assert (report["loads"], report["valid"]) == (False, False)
            assert sentence in report["problems"][0]
            assert http.get("/v1/models").json()["data"][0]["id"] == tiny_folder.name
        # What the server was not started with, no request can ask for.
        for path in ("/v1/models/load", "/validate-model"):
            asked = http.post(path, json={"model": str(model), "allow_pickle": True})
            assert asked.status_code == 400
            assert asked.json()["error"]["param"] == "allow_pickle"
        assert process.health()[1]["step_failures"] == 0
        assert "Traceback" not in process.output()


def test_pickled_weights_by_the_servers_own_setting(tmp_path: Path, tiny_folder: Path) -> None:
    model = shutil.copytree(tiny_folder, tmp_path / "pickled")
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    flags = ("--model", str(tiny_folder), "--device", "cpu", "--allow-pickle")
    with server(tmp_path, *flags) as process, bystander(process.until_ready().url):
        body = {"model": str(model), "stream": False}
        loaded = httpx.post(f"{process.url}/v1/models/load", json=body, timeout=90).json()
        assert (loaded["status"], loaded["model"]) == ("ready", "pickled")
        assert "LLM_OFFLINE_ALLOW_PICKLE=True" in process.output()
        assert "the weights are pickles (--allow-pickle)" in process.output()


def test_a_model_without_a_chat_template_says_how_to_give_one(tmp_path: Path) -> None:
    """And serves completions all the same."""
    model = build_tiny_llama(tmp_path / "model", chat_template=None)
    # Nothing tells of its kind: a template that ships with the server is chosen by such tokens.
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (model / file).read_text(encoding="utf-8")
        (model / file).write_text(text.replace("<|start_header_id|>", "<|other|>"), "utf-8")
    with server(tmp_path, "--model", str(model), "--device", "cpu") as process:
        process.until_ready()
        chat = {"messages": [{"role": "user", "content": "x"}]}
        answer = httpx.post(f"{process.url}/v1/chat/completions", json=chat, timeout=90)
        assert answer.status_code == 400
        assert "--chat-template llama3" in answer.json()["error"]["message"]
        plain = {"prompt": "x", "max_tokens": 2}
        answer = httpx.post(f"{process.url}/v1/completions", json=plain, timeout=90)
        assert answer.status_code == 200
