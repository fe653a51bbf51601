"""What is wrong with a folder, told before anything is loaded: a cause, and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from llm_offline.checkpoint import check_files, read_config, read_tokenizer
from llm_offline.errors import StartError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 4943162240\n"


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _read(folder: Path, *, allow_pickle: bool) -> None:
    weights = check_files(folder, allow_pickle=allow_pickle)
    read_config(folder, weights.tensors)
    read_tokenizer(folder)


def _refusal(folder: Path, *, allow_pickle: bool = False) -> str:
    with pytest.raises(StartError) as refused:
        _read(folder, allow_pickle=allow_pickle)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def _describe(folder: Path, kind: str | None, **more: Any) -> None:
    """A configuration of another kind."""
    described = {} if kind is None else AutoConfig.for_model(kind).to_dict() | {"model_type": kind}
    (folder / "config.json").write_text(json.dumps(described | more), encoding="utf-8")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs(folder: Path, name: str) -> None:
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(POINTER, encoding="utf-8")
    told = _refusal(folder, allow_pickle=True)
    assert told.startswith(f"{folder / name} is a pointer of Git LFS")
    assert "`git lfs pull`" in told


def test_weights_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StartError, match=r"model\.safetensors cannot be read: Permission denied"):
        check_files(folder)


@pytest.mark.parametrize("left", [[], ["tokenizer_config.json"]], ids=str)
def test_no_tokenizer(folder: Path, left: list[str]) -> None:
    for file in folder.glob("tokenizer*"):
        if file.name not in left:
            file.unlink()
    assert _refusal(folder).startswith(f"{folder} has no tokenizer: copy tokenizer.json")
    if not left:  # told before the model that serves is given up
        with pytest.raises(StartError, match="has no tokenizer"):
            check_files(folder)


@pytest.mark.parametrize(
    ("kind", "classes", "is_encoder"),
    [
        ("bert", ["BertModel"], True),
        ("bert", [], True),
        ("bert", ["BertForMaskedLM"], True),
        ("xlm-roberta", ["XLMRobertaModel"], True),
        ("distilbert", ["DistilBertModel"], True),
        ("t5", ["T5ForConditionalGeneration"], False),
        ("bart", ["BartForConditionalGeneration"], False),
        ("bart", [], False),
        ("vit", ["ViTModel"], False),
        ("llama", ["LlamaForSequenceClassification"], False),
    ],
)
def test_what_is_no_causal_language_model(
    folder: Path, kind: str, classes: list[str], is_encoder: bool
) -> None:
    _describe(folder, kind, architectures=classes)
    told = _refusal(folder)
    assert f"its config.json names {classes[0] if classes else kind};" in told
    assert "choose a model whose class ends in ForCausalLM" in told
    assert ("--embedding-model" in told) is is_encoder


def test_an_encoder_that_only_its_folder_tells_of(folder: Path) -> None:
    (folder / "modules.json").write_text("[]", encoding="utf-8")
    _describe(folder, "mpnet", architectures=["MPNetModel"])
    assert "--embedding-model" in _refusal(folder)


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("llama", ["LlamaForCausalLM"]),
        ("llama", ["LlamaModel"]),  # its files will tell
        ("llama", []),
        ("llama", ["ViLlamaForCausalLM"]),
        ("gpt2", ["GPT2LMHeadModel"]),
        ("bert", ["BertLMHeadModel"]),
        ("bart", ["BartForCausalLM"]),
        ("gemma3", ["Gemma3ForConditionalGeneration"]),
    ],
)
def test_what_may_be_one(folder: Path, kind: str, classes: list[str]) -> None:
    _describe(folder, kind, architectures=classes)
    assert read_config(folder, 1000).model_type == kind


@pytest.mark.parametrize(
    ("kind", "more", "sentence"),
    [
        ("wizard", {}, r"'wizard', which transformers [\d.]+ does not know: choose another"),
        ("wizard", {"auto_map": {}}, "brings code of its own, which is not run here: choose"),
        (None, {}, r"does not say what kind of model it is \(model_type\)"),
    ],
)
def test_kinds_without_code(
    folder: Path, kind: str | None, more: dict[str, Any], sentence: str
) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": kind} | more), encoding="utf-8")
    with pytest.raises(StartError, match=sentence):
        read_config(folder, 1000)
