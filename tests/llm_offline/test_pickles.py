"""Pickled weights: refused, unless told otherwise; then tensors only."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm_offline.engine.interface import GenerationRequest, Sampling
from llm_offline.errors import StartError
from llm_offline.loaded import LoadedModel
from llm_offline.loading import load_model
from llm_offline.progress import Progress
from llm_offline.settings import Settings
from tests.llm_offline.engine.stepping import Stepper


def _load(folder: Path, **more: object) -> LoadedModel:
    given = {"model": str(folder), "device": "cpu", "dtype": "fp32", "allow_pickle": True, **more}
    return load_model(Settings(_env_file=None, **given), Progress())  # type: ignore[arg-type]


def _says(model: LoadedModel) -> list[list[int]]:
    wish = GenerationRequest((5, 6, 7, 8), Sampling(temperature=0), max_tokens=8)
    return Stepper(model.network).texts_of([wish])  # type: ignore[arg-type]


@pytest.fixture
def pickled(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with its weights in a pickle."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "pickled"))
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def _sharded(folder: Path) -> None:
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    names = sorted(tensors)
    parts = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for part, inside in parts.items():
        torch.save({name: tensors[name] for name in inside}, folder / part)
    where = {name: part for part, inside in parts.items() for name in inside}
    index = json.dumps({"metadata": {}, "weight_map": where})
    (folder / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")
    (folder / "pytorch_model.bin").unlink()


def _old(folder: Path) -> None:
    """As PyTorch wrote them before 1.6."""
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("form", [lambda folder: None, _sharded, _old], ids=["one", "parts", "old"])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_allowed_they_say_what_safetensors_say(
    pickled: Path,
    tiny_folder: Path,
    form: Callable[[Path], None],
    quantization: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    form(pickled)
    with caplog.at_level(logging.WARNING):
        found = _load(pickled, quantization=quantization)
    assert "the weights are pickles (--allow-pickle)" in caplog.text
    assert _says(found) == _says(_load(tiny_folder, quantization=quantization))


def test_without_the_flag_the_refusal_names_it(pickled: Path) -> None:
    with pytest.raises(StartError, match=r"because a pickle is a program: .*--allow-pickle"):
        _load(pickled, allow_pickle=False)


def test_safetensors_are_taken_where_there_are_both(
    pickled: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(tiny_folder / "model.safetensors", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"not even a pickle")
    _load(pickled)
    assert "pickles" not in caplog.text


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("it ran",))


def _spoilt(file: Path, *, cut: int | None = None) -> None:
    file.write_bytes(b"\xff" * 5000 if cut is None else file.read_bytes()[:cut])


def _misread(file: Path) -> None:
    """An archive that says it is one of many volumes."""
    content = bytearray(file.read_bytes())
    volumes = content.rindex(b"PK\x06\x07") + 16
    content[volumes] = 7
    file.write_bytes(content)


def _hostile(file: Path) -> None:
    torch.save({"model.norm.weight": _Bomb()}, file)


def _plainly_hostile(file: Path) -> None:
    file.write_bytes(pickle.dumps(_Bomb(), protocol=2))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_spoilt, "is damaged, was not copied whole, or"),
        (lambda file: _spoilt(file, cut=-1000), "is damaged, was not copied whole, or"),
        (lambda file: _spoilt(file, cut=300), "is damaged, was not copied whole, or"),
        (lambda file: _spoilt(file, cut=0), "is damaged, was not copied whole, or"),
        (_misread, "is damaged, was not copied whole, or"),
        (_hostile, "holds more than weights: reading it would call"),
        (_plainly_hostile, "holds more than weights: reading it would call"),
        (lambda file: torch.save([1, 2], file), "cannot be loaded as a causal language model"),
        (
            lambda file: torch.save({"x": torch.ones(1)}, file),
            "the files of weights hold 1 tensors",
        ),
        (lambda file: file.rename(file.with_name("other.bin")), "under a name that is known"),
    ],
    ids="garbage cut early empty misread hostile plain list other name".split(),
)
def test_what_is_wrong_with_a_pickle_is_one_sentence(
    pickled: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(pickled / "pytorch_model.bin")
    with pytest.raises(StartError) as refused:
        _load(pickled)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
