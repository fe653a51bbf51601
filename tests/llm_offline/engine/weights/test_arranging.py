"""What weights take, as counted before and as it is after; and that they are read one by one."""

from __future__ import annotations

import gc
import weakref
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from llm_offline.engine.compute.runner import Runner
from llm_offline.engine.interface import GenerationRequest, Sampling
from llm_offline.engine.weights.arranging import arrange, weight_bytes
from llm_offline.engine.weights.cpu_linear import Int4Linear, Int8Linear, PackedLinear, packs
from llm_offline.engine.weights.quantization import from_int4, to_int4, whole_group
from llm_offline.engine.weights.quantized_linear import Linear4, Linear8
from tests.llm_offline.engine.models import CONFIGS, STOP, random_model
from tests.llm_offline.engine.stepping import Stepper

GIB = 2**30


def _llama_3b() -> PreTrainedModel:
    """Llama-3.2-3B's shape without its numbers."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model


def test_a_3b_model_and_what_it_fits_on() -> None:
    model = _llama_3b()
    a_layer = 2 * 3072 * 3072 + 2 * 3072 * 1024 + 3 * 3072 * 8192
    embeddings, norms = 128256 * 3072, (2 * 28 + 1) * 3072
    found = {name: weight_bytes(model, name, torch.bfloat16) for name in ("none", "int8", "int4")}
    # The embeddings are the output layer, too, and counted once.
    assert found["none"].of == 28 * a_layer + embeddings + norms == 3_212_749_824
    assert found["none"].total == 2 * found["none"].of
    scales = 28 * 4 * (3072 + 1024 + 1024 + 3072 + 8192 + 8192 + 3072)
    assert found["int8"].quantized == 28 * a_layer + scales
    assert found["int4"].quantized == 28 * a_layer * 9 // 16
    assert found["int8"].rest == found["int4"].rest == 2 * (embeddings + norms)
    cache = 8192 * 28 * 2 * 8 * 128 * 2
    # 8 GB beside an encoder of 568M parameters in fp16, with 8,192 tokens and 1 GiB for the rest.
    assert found["int8"].total + cache + 2 * 568_000_000 + GIB < 8e9
    # 6 GB alone.
    assert found["int8"].total + cache + GIB < 6e9
    assert found["int4"].total + 2 * cache + GIB < 6e9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_cpu_keeps_a_second_copy_of_a_shared_output_layer(dtype: torch.dtype) -> None:
    model = _llama_3b()
    gpu, cpu = (weight_bytes(model, "int4", dtype, device) for device in ("cuda", "cpu"))
    assert cpu.total - gpu.total == packs(dtype) * dtype.itemsize * 128256 * 3072


def _bytes(model: nn.Module) -> int:
    """Of parameters and of the buffers of quantized layers."""
    tensors = [*model.parameters()]
    for module in model.modules():
        if isinstance(module, Linear8 | Linear4):
            tensors += module.buffers()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_was_counted_is_what_there_is(kind: str, quantization: str) -> None:
    model = random_model(CONFIGS[kind]()).bfloat16()
    counted = weight_bytes(model, quantization, torch.bfloat16, "meta")
    # "meta" for a device that is not a CPU.
    arrange(model, quantization, device="meta", dtype=torch.bfloat16)
    assert _bytes(model) == counted.total


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.slow
def test_each_layer_is_let_go_before_the_next(quantization: str) -> None:
    model = random_model(CONFIGS["qwen2"]())
    alive = [
        weakref.ref(module.weight)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name != "lm_head"
    ]
    left: list[int] = []

    def told(done: int, of: int) -> None:
        gc.collect()
        left.append(sum(weight() is not None for weight in alive))
        assert of >= done == len(left)

    arrange(model, quantization, device="cpu", dtype=torch.float32, told=told)
    # q, k and v are replaced together, gate and up too.
    steps = [before - after for before, after in pairwise([len(alive), *left])]
    assert steps == [3, 1, 2, 1] * (len(alive) // 7)
    assert left[-1] == 0


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_a_whole_model(quantization: str) -> None:
    dtype = torch.bfloat16 if quantization == "none" else torch.float32
    model = random_model(CONFIGS["llama, tied weights"]()).to(dtype)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        if quantization == "int4":  # far from what it was, but near what its codes say
            for name, module in model.named_modules():
                if type(module) is nn.Linear and name != "lm_head":
                    codes = to_int4(module.weight, whole_group(module.in_features))
                    module.weight.copy_(from_int4(*codes, dtype))
        before = model(ids).logits.float()
        embeddings = model.get_input_embeddings().weight.clone()
        arrange(model, quantization, device="cpu", dtype=dtype)
        after = model(ids).logits.float()
    assert float((after - before).norm() / before.norm()) < 0.1
    assert torch.equal(model.get_input_embeddings().weight, embeddings)
    kinds = {type(module) for module in model.modules()}
    if quantization == "none":
        assert (PackedLinear in kinds) == packs(dtype)
        assert (nn.Linear in kinds) != packs(dtype)
    else:
        assert (Int8Linear if quantization == "int8" else Int4Linear) in kinds
        last = type(model.get_output_embeddings())
        assert last is (PackedLinear if packs(dtype) else nn.Linear)


def test_what_no_quantization_fits_stays_as_it_is() -> None:
    config = CONFIGS["qwen2"]()
    config.intermediate_size = 100
    model = random_model(config)
    counted = weight_bytes(model, "int4", torch.float32)
    arrange(model, "int4", device="cpu", dtype=torch.float32)
    mlp = model.model.layers[0].mlp
    # 100 inputs are no whole groups; 100 outputs no whole tiles.
    assert not any(isinstance(module, Int4Linear) for module in mlp.modules())
    assert type(model.model.layers[0].self_attn.o_proj) is Int4Linear
    assert 0 < counted.numbers < counted.of / 2


def test_the_dtype_of_the_rest_changes_but_not_the_frequencies() -> None:
    model = random_model(CONFIGS["llama 3 rope"]())
    frequencies = model.model.rotary_emb.inv_freq.clone()
    arrange(model, "int4", device="cpu", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.model.rotary_emb.inv_freq, frequencies)


GREEDY = Sampling(temperature=0)
DRAWN = Sampling(temperature=1.0, seed=5)


@cache
def _runner(quantization: str, device: str) -> Runner:
    model: Any = random_model(CONFIGS["qwen3"]())
    if device == "cpu":
        arrange(model, quantization, device="cpu", dtype=torch.float32)
    else:  # the layers for GPUs, computed here
        made = Linear8 if quantization == "int8" else Linear4
        for module in list(model.modules()):
            for name, child in module.named_children():
                if type(child) is nn.Linear and name != "lm_head":
                    setattr(module, name, made(child, device="cpu", dtype=torch.float32))
    runner = Runner(model, device="cpu", stop_ids=frozenset({STOP}), quantized=True)
    runner.allocate(2048)
    return runner


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_request_says_the_same_alone_and_among_others(
    quantization: str, device: str, sampling: Sampling
) -> None:
    """Batched, in chunks, with shared beginnings, guesses and little memory."""
    runner = _runner(quantization, device)
    dice = torch.Generator().manual_seed(6)

    def some(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 300, (count,), generator=dice).tolist())

    shared = some(40)
    prompts = [shared + some(9), some(5) * 8, shared + some(30), some(70), some(2)]
    requests = [GenerationRequest(prompt, sampling) for prompt in prompts]
    alone = [
        Stepper(runner, share=False, speculate=False).texts_of([request])[0] for request in requests
    ]
    together = Stepper(runner, blocks=16, step_tokens=24)
    assert together.texts_of(requests) == alone
    assert together.texts_of(requests) == alone
