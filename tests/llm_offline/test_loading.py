"""Checkpoints that are not what they should be: one sentence each."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_offline.engine.compute.decoding import Decode, plain_decode
from llm_offline.engine.compute.runner import Runner
from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.interface import GenerationRequest, Sampling
from llm_offline.errors import ContextExceeded, StartError
from llm_offline.loaded import LoadedModel
from llm_offline.loading import load_model
from llm_offline.progress import Progress
from llm_offline.settings import Settings


def _load(folder: Path, **more: object) -> LoadedModel:
    given = {"model": str(folder), "device": "cpu", "dtype": "fp32", **more}
    return load_model(Settings(_env_file=None, **given), Progress())  # type: ignore[arg-type]


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def _change(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | changes), encoding="utf-8")


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _adapter(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")


def _truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)


def _lacking(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _wrong_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _index_of_nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": [3]}', encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "is not a JSON object"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "be read as JSON"),
        (lambda folder: _change(folder / "config.json", model_type="hal9000"), "type 'hal9000'"),
        (
            lambda folder: _change(folder / "config.json", model_type="bert"),
            "causal language model",
        ),
        (lambda folder: _change(folder / "config.json", vocab_size="x"), "expected int, got str"),
        (lambda folder: _change(folder / "config.json", rope_parameters=3), "cannot build"),
        (
            lambda folder: _change(folder / "config.json", num_hidden_layers=10**8),
            "100000000 layer",
        ),
        (lambda folder: _change(folder / "config.json", num_hidden_layers=-1), "which no model"),
        (
            lambda folder: _change(folder / "config.json", num_attention_heads=0),
            "cannot build: int",
        ),
        (lambda folder: _change(folder / "config.json", hidden_size=10**12), "does not fit"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "the tokenizer in"),
        (_pickled, "only pickled weights, which are refused"),
        (_adapter, "an adapter"),
        (_truncated, "damaged or was not copied whole"),
        (_garbage, "damaged or was not copied whole"),
        (_lacking, "(model.layers.1.mlp.up_proj.weight"),
        (_wrong_shape, "model.norm.weight"),
        (_index_of_nothing, "names no files of weights"),
        (_missing_shard, "lacks model-00001-of-00002.safetensors"),
    ],
)
def test_a_checkpoint_that_is_broken(
    copied: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(copied)
    with pytest.raises(StartError) as refused:
        _load(copied)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_stop_ids_are_the_union_of_what_the_files_say(copied: Path) -> None:
    _change(copied / "generation_config.json", eos_token_id=2)
    _change(copied / "config.json", eos_token_id=[1])
    assert _load(copied).network.stop_ids == frozenset({1, 2, 4})


def test_the_authors_sampling_is_the_default(copied: Path) -> None:
    assert _load(copied).defaults.temperature == 1.0
    _change(copied / "generation_config.json", do_sample=True, temperature=0.6, top_p=0.9)
    defaults = _load(copied).defaults
    assert (defaults.temperature, defaults.top_p) == (0.6, 0.9)


def test_max_context(tiny_folder: Path) -> None:
    assert _load(tiny_folder).context == 4096
    assert _load(tiny_folder, max_context=100).context == 100
    with pytest.raises(StartError, match="more than the 4096 tokens"):
        _load(tiny_folder, max_context=5000)


@pytest.mark.parametrize("decode", [None, plain_decode], ids=["", "steps of fixed shape"])
@pytest.mark.parametrize("context", [16, 32, 37])
async def test_contexts_shorter_than_the_text_that_tries_the_model(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, context: int, decode: Decode | None
) -> None:
    monkeypatch.setattr("llm_offline.loading.Runner", partial(Runner, decode=decode))
    model = _load(tiny_folder, max_context=context, max_batch=1)
    assert (model.context, model.kv_tokens) == (context, context)
    assert "no CUDA graphs" in "; ".join(model.remarks) or decode is None
    engine = ContinuousBatching(
        model.network, model.text.decode, context=model.context, max_queue=4, max_batch=1
    )
    with pytest.raises(ContextExceeded):
        engine.generate(GenerationRequest((5,) * context))
    wanted = GenerationRequest((5, 6, 7), Sampling(temperature=0))
    *_, last = [delta async for delta in engine.generate(wanted)]
    assert last.completion_tokens == context - 3
    engine.stop()
    assert engine.join(10)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("./no/such/folder", "there is no such folder, and it is not a Hugging Face id"),
        ("/no/such", "there is no such folder"),
        ("C:\\models\\x", "there is no such folder"),
    ],
)
def test_a_path_that_does_not_exist(name: str, sentence: str) -> None:
    with pytest.raises(StartError, match=sentence):
        load_model(Settings(_env_file=None, model=name, device="cpu"), Progress())


def test_a_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(StartError, match=r"a GGUF file is for llama\.cpp or Ollama"):
        _load(file)


def test_progress_counts_the_tensors(tiny_folder: Path) -> None:
    seen: list[str] = []

    class Watched(Progress):
        def advance(self, by: int, *, total: int | None = None) -> None:
            super().advance(by, total=total)
            seen.append(str(self.stage))

    load_model(Settings(_env_file=None, model=str(tiny_folder), device="cpu"), Watched())
    assert seen[-1] == "reading the weights (100 %)"
    assert len(seen) > 10


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_other_numbers(tiny_folder: Path, dtype: str, quantization: str) -> None:
    """The comparison with the model's own attention passes there too."""
    remarks = "; ".join(_load(tiny_folder, dtype=dtype, quantization=quantization).remarks)
    kind = dtype if quantization == "none" else f"{quantization} and {dtype}"
    assert f"GiB ({kind})" in remarks
    assert ("quantized; output layer, embeddings and norms stay in" in remarks) == (
        quantization != "none"
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_weights_let_the_file_go(copied: Path, quantization: str, dtype: str) -> None:
    """It is mapped while it is read; afterwards whoever writes over it disturbs nobody."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("needs Linux")
    if dtype == "bf16":  # of the file too: what is converted was copied
        file = copied / "model.safetensors"
        tensors = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
        del tensors
    model = _load(copied, quantization=quantization, dtype=dtype)
    gc.collect()
    assert str(copied) not in maps.read_text()
    assert model.network.vocabulary


@pytest.mark.parametrize(
    ("quantization", "free", "sentence"),
    [
        ("none", 500_000, "or --quantization int8 (0.0 GiB), or --quantization int4 (0.0 GiB)"),
        ("int8", 375_000, "0.0 GiB for its weights and 0 MiB for each 1,024 tokens of context"),
        ("int4", 100_000, "are free on cpu: close what uses it, or choose a smaller model"),
    ],
)
def test_weights_that_do_not_fit_are_not_read(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, free: int, sentence: str
) -> None:
    monkeypatch.setattr("llm_offline.weighing.memory", lambda device: {"free_bytes": free})
    monkeypatch.setattr("llm_offline.fitting._SPARE", 0)
    with pytest.raises(StartError) as refused:
        _load(tiny_folder, quantization=quantization)
    assert sentence in str(refused.value)


def test_the_memory_for_keys_and_values_is_bounded(tiny_folder: Path) -> None:
    assert _load(tiny_folder, kv_memory=0.002).context == 4096
    assert _load(tiny_folder, kv_memory=0.0005).context < 4096
    with pytest.raises(StartError, match="raise --kv-memory"):
        _load(tiny_folder, kv_memory=0.00001)
    with pytest.raises(StartError, match=r"\(--kv-memory\), and .* free on cpu: lower --kv-memory"):
        _load(tiny_folder, kv_memory=9_000)


def test_an_allocator_that_gives_no_memory_is_one_sentence(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    for place, sentence in (
        ("llm_offline.network_reading._model_class.from_pretrained", "while the weights in"),
        ("llm_offline.loading.arrange", "while the weights were arranged"),
        ("llm_offline.engine.compute.runner._own_logits", "do not fit on cpu, which had"),
        ("llm_offline.engine.compute.attention.install", "a KV cache of 65536 tokens"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, full)
            with pytest.raises(StartError) as refused:
                _load(tiny_folder)
        assert sentence in str(refused.value)
