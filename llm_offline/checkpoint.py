"""A model's files on the disk: which there are, what they say, and what is wrong with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer

from llm_offline.errors import StartError, first_line
from llm_offline.pickles import check_pickle

_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_SIZES = (
    "head_dim",
    "hidden_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of a model's weights, and how many tensors they hold."""

    files: list[Path]
    tensors: int


def check_files(folder: Path, *, allow_pickle: bool = False) -> Weights:
    """Refuse what is not a whole checkpoint, before minutes go into reading it; its weights.

    Args:
        folder: Where they are.
        allow_pickle: Take pickled weights where there are none in safetensors.

    Raises:
        StartError: A file lacks or is damaged, or the weights are pickled and may not be.
    """
    if not (folder / "config.json").is_file():
        raise StartError(
            f"{folder} is not a model: it has no config.json; give the folder that holds "
            "config.json, the tokenizer and the safetensors files"
        )
    files = weight_files(folder, allow_pickle=allow_pickle)
    check = {file: check_pickle if is_pickled(file) else _check_safetensors for file in files}
    return Weights(files, sum(check[file](file) for file in files))


def weight_files(folder: Path, *, allow_pickle: bool = False) -> list[Path]:
    """Where a model's weights are; raises `StartError` if that is nowhere, or only in pickles."""
    files = _named(folder, _SAFE)
    if files:
        return files
    if (folder / "adapter_config.json").is_file():
        raise StartError(
            f"{folder} holds an adapter (LoRA), not a whole model: merge it into its base model"
        )
    if allow_pickle and (files := _named(folder, _PICKLED)):
        return files
    if not any(folder.glob("*.bin")) and not any(folder.glob("*.pt*")):
        raise StartError(f"{folder} has no weights: {_SAFE} is missing")
    if allow_pickle:
        raise StartError(
            f"{folder} has no weights under a name that is known: {_SAFE}, {_PICKLED}, or an "
            f"index of either ({_SAFE}.index.json)"
        )
    raise StartError(
        f"{folder} has only pickled weights, which are refused because a pickle is a program: get "
        "the model's safetensors version, or, if you trust who made it, start with --allow-pickle"
    )


def is_pickled(file: Path) -> bool:
    """Whether a file of weights is a pickle."""
    return file.suffix != ".safetensors"


def _named(folder: Path, name: str) -> list[Path]:
    """The file of this name, or the parts that its index names; empty where neither is there.

    transformers takes the whole file where there are both.
    """
    if (folder / name).is_file():
        return [folder / name]
    index = folder / f"{name}.index.json"
    if not index.is_file():
        return []
    listed = read_json(index).get("weight_map")
    parts = set(listed.values()) if isinstance(listed, dict) else set()
    if not parts or not all(isinstance(part, str) for part in parts):
        raise StartError(f"{index} names no files of weights: copy or download the model again")
    if missing := sorted(part for part in parts if not (folder / part).is_file()):
        raise StartError(
            f"{folder} lacks {', '.join(missing)}, which its index names: copy or download "
            "the model again"
        )
    return [folder / part for part in sorted(parts)]


def _check_safetensors(file: Path) -> int:
    """Tensors in it; raises `StartError` if it is not whole."""
    try:
        with safe_open(file, framework="pt") as opened:
            return len(opened.keys())
    except (SafetensorError, OSError) as error:
        raise StartError(
            f"{file} is damaged or was not copied whole ({error}): copy or download it again"
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; raises `StartError` if it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StartError(f"{file} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise StartError(f"{file} is not a JSON object: copy or download the model again")
    return content


def read_config(folder: Path, tensors: int) -> Any:
    """The model's configuration, of transformers.

    Args:
        folder: The model's.
        tensors: In its files: a network of more layers than that is not even begun, since building
            it takes time and memory without numbers too.

    Raises:
        StartError: It is of a kind that is unknown, or says what no model can be.
    """
    described = read_json(folder / "config.json")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # transformers, its checked dataclasses and torch: each raises errors of its own here.
        kind = described.get("model_type", "unknown")
        raise StartError(
            f"{folder / 'config.json'} describes a model of type {kind!r} that transformers "
            f"{transformers.__version__} cannot build: {' '.join(str(error).split())[:300]}"
        ) from error
    text = config.get_text_config()
    for name in _SIZES:
        value = getattr(text, name, None)
        if isinstance(value, int) and value < 1:
            raise StartError(
                f"{folder / 'config.json'} says {name}={value}, which no model has: copy or "
                "download it again"
            )
    if (layers := getattr(text, "num_hidden_layers", None) or 0) > tensors:
        raise StartError(
            f"{folder / 'config.json'} tells of {layers} layers, and the files of weights hold "
            f"{tensors} tensors: they do not belong together; copy or download the model again"
        )
    return config


def read_tokenizer(folder: Path) -> Any:
    """The model's tokenizer, of transformers; raises `StartError` where it cannot be read."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # tokenizers raises bare Exceptions for files it cannot read.
        raise StartError(
            f"the tokenizer in {folder} cannot be read ({first_line(error)}): tokenizer.json is "
            "needed, and tokenizer_config.json beside it"
        ) from error
