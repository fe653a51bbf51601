"""A model's files on the disk: which there are, what they say, and what is wrong with them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoTokenizer

from llm_offline.errors import StartError, first_line
from llm_offline.pickles import check_pickle

_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_POINTER = b"version https://git-lfs"
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "merges.txt", "tekken.json", "*.tiktoken")
# Classes that write a text, word after word; those with another purpose; and kinds of models that
# read a text in both directions unless they say that they are decoders.
_WRITES = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration|LMHead|Decoder)$")
_OTHERWISE = re.compile(r"For[A-Z]\w+$")
_ENCODERS = re.compile(r"bert|electra|ernie|big_bird|data2vec|roformer|xmod")
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
        StartError: A file lacks or is damaged, the weights are pickled and may not be, or there is
            nothing of a tokenizer.
    """
    if not (folder / "config.json").is_file():
        raise StartError(
            f"{folder} is not a model: it has no config.json; give the folder that holds "
            "config.json, the tokenizer and the safetensors files"
        )
    files = weight_files(folder, allow_pickle=allow_pickle)
    for file in files:
        _check_fetched(file)
    if not (_has_vocabulary(folder) or (folder / "tokenizer_config.json").is_file()):
        raise _no_tokenizer(folder)
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


def _check_fetched(file: Path) -> None:
    """Refuse what cannot be read, and what git leaves where a large file belongs."""
    try:
        with file.open("rb") as opened:
            begins = opened.read(len(_POINTER))
    except OSError as error:
        raise StartError(f"{file} cannot be read: {error.strerror or error}") from error
    if begins == _POINTER:
        raise StartError(
            f"{file} is a pointer of Git LFS and not the file itself: run `git lfs install` and "
            "`git lfs pull` in that folder, or download the model again"
        )


def _has_vocabulary(folder: Path) -> bool:
    return any(file.is_file() for name in _VOCABULARIES for file in folder.glob(name))


def _no_tokenizer(folder: Path) -> StartError:
    return StartError(
        f"{folder} has no tokenizer: copy tokenizer.json and tokenizer_config.json there, from "
        "where the model's other files are from"
    )


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
    kind = described.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise StartError(f"{folder / 'config.json'} {_unknown(kind, described)}")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # transformers, its checked dataclasses and torch: each raises errors of its own here.
        raise StartError(
            f"{folder / 'config.json'} describes a model of type {kind!r} that transformers "
            f"{transformers.__version__} cannot build: {' '.join(str(error).split())[:300]}"
        ) from error
    named = described.get("architectures")
    classes = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
    if not _writes(config, classes):
        raise StartError(_not_causal(folder, classes[0] if classes else kind))
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


def _unknown(kind: object, described: dict[str, Any]) -> str:
    """What is to be said of a kind of model for which there is no code."""
    if not isinstance(kind, str):
        return (
            "does not say what kind of model it is (model_type): it is of another library, or "
            "another file; give a folder of a transformers model"
        )
    if "auto_map" in described:
        return (
            f"describes a model of type {kind!r} that brings code of its own, which is not run "
            "here: choose one whose code is in transformers"
        )
    return (
        f"describes a model of type {kind!r}, which transformers {transformers.__version__} does "
        "not know: choose another model, or a newer transformers"
    )


def _not_causal(folder: Path, kind: str) -> str:
    encoder = _ENCODERS.search(kind.lower()) or (folder / "modules.json").is_file()
    hint = "; this one, an encoder, can serve /v1/embeddings (--embedding-model)" if encoder else ""
    return (
        f"{folder} is not a causal language model, which this server needs: its config.json names "
        f"{kind}; choose a model whose class ends in ForCausalLM{hint}"
    )


def _writes(config: Any, classes: Sequence[str]) -> bool:
    """Whether it goes on writing from what it has read, as far as its configuration tells.

    `...Model`, without a purpose, may be the weights of a language model all the same.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return False
    # BART's kind: what it writes is told by another text, which is read apart.
    if config.is_encoder_decoder and not any(one.endswith("ForCausalLM") for one in classes):
        return False
    if any(map(_WRITES.search, classes)):
        return True
    if any(map(_OTHERWISE.search, classes)):
        return False
    return not _ENCODERS.search(config.model_type) or bool(config.is_decoder)


def read_tokenizer(folder: Path) -> Any:
    """The model's tokenizer, of transformers; raises `StartError` where it cannot be read."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # tokenizers raises bare Exceptions for files it cannot read.
        if not _has_vocabulary(folder):
            raise _no_tokenizer(folder) from error
        for file in folder.glob("tokenizer*"):
            _check_fetched(file)
        raise StartError(
            f"the tokenizer in {folder} cannot be read ({first_line(error)}): tokenizer.json is "
            "needed, and tokenizer_config.json beside it"
        ) from error
