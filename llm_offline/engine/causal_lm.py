"""A Hugging Face causal language model, one bounded forward pass at a time.

The only module of the package that imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from llm_offline.engine.interface import Sampling
from llm_offline.errors import GenerationFailed, OutOfMemory, StartError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Below this a temperature is greedy: the division would leave the range of a float.
_GREEDY = 1e-5
# A long prompt is read in pieces, so that a client that goes away is noticed between two.
_PREFILL_CPU = 256
_PREFILL_GPU = 2048
# Tokens among which a nucleus is looked for first.
_LIKELY = 1024


def choose_device(wanted: str) -> str:
    """`auto` → cuda when present, else cpu.

    Raises:
        StartError: The device that was asked for is not there.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda"):
        index = int(wanted.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise StartError(
                f"--device {wanted}: PyTorch {torch.__version__} sees {torch.cuda.device_count()} "
                "CUDA device(s); install PyTorch's CUDA build and the driver, or use --device cpu"
            )
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise StartError("--device mps: this machine has no Apple GPU; use --device cpu")
    return wanted


def choose_dtype(wanted: str, device: str) -> str:
    """`auto` → the smallest type that the device computes in natively: bf16, else fp16 or fp32."""
    if wanted != "auto":
        return wanted
    if device.startswith("cuda"):
        # including_emulation=False: Turing and older only emulate bf16, slowly.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device == "mps":
        return "fp16"
    cpu = torch.cpu.get_capabilities()
    return "bf16" if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else "fp32"


class CausalLM:
    """Weights on a device, ready to be stepped through by one thread at a time."""

    def __init__(self, model: Any, *, device: str, stop_ids: frozenset[int]) -> None:
        """`model` is a transformers causal LM in its final dtype; it moves to `device`.

        Raises:
            StartError: It does not fit on the device.
        """
        try:
            self._model = model.to(device).eval()
        except torch.OutOfMemoryError as error:
            weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30
            free, total = (amount / 2**30 for amount in torch.cuda.mem_get_info(device))
            raise StartError(
                f"the model's weights ({weights:.1f} GiB) do not fit on {device}, which has "
                f"{free:.1f} of {total:.1f} GiB free: close what uses it, choose a smaller model, "
                "or use --device cpu"
            ) from error
        self._device = torch.device(device)
        self._prefill = _PREFILL_CPU if device == "cpu" else _PREFILL_GPU
        self.device = device
        self.stop_ids = stop_ids
        """Ids that end a text."""

    def start(self, prompt: Sequence[int], sampling: Sampling) -> Decoding:
        """Prepare to continue `prompt`; nothing is computed yet."""
        return Decoding(self._model, self._device, prompt, sampling, self._prefill)

    def warm_up(self) -> None:
        """One tiny request: weights are paged in and kernels chosen before the first user comes."""
        decoding = self.start([0] * 8, Sampling(temperature=0))
        for _ in range(3):
            decoding.advance()

    def context_in_memory(self) -> int:
        """Tokens whose keys and values fit in 80 % of the memory that is free now."""
        config = self._model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        per_token = 2 * config.num_hidden_layers * heads * head_dim * self._model.dtype.itemsize
        return int(self.memory()["free_bytes"] * 0.8 / per_token)

    def memory(self) -> dict[str, int]:
        """Bytes in use by this process and free on its device, for `/health`."""
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            used = torch.cuda.memory_reserved(self._device)
            # What the allocator keeps but no tensor needs is as good as free.
            free += used - torch.cuda.memory_allocated(self._device)
            return {"used_bytes": used, "free_bytes": free, "total_bytes": total}
        system = psutil.virtual_memory()
        used = psutil.Process(os.getpid()).memory_info().rss
        return {"used_bytes": used, "free_bytes": system.available, "total_bytes": system.total}


class Decoding:
    """One text in the making: its KV cache and its random numbers."""

    def __init__(
        self,
        model: Any,
        device: torch.device,
        prompt: Sequence[int],
        sampling: Sampling,
        prefill: int,
    ) -> None:
        self._model = model
        self._device = device
        self._sampling = sampling
        self._todo = list(prompt)
        self._prefill = prefill
        self._cache: Any = None
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            # torch takes seeds of 64 bits; Python's and JSON's integers have no limit.
            self._generator.manual_seed(sampling.seed % 2**63)

    def advance(self) -> int | None:
        """One forward pass: the next token, or None while the prompt is still being read.

        Raises:
            OutOfMemory: The device has not enough memory left.
            GenerationFailed: The model's output is not a number.
        """
        piece, self._todo = self._todo[: self._prefill], self._todo[self._prefill :]
        with _memory_errors(), torch.inference_mode():
            ids = torch.tensor([piece], device=self._device)
            output = self._model(
                input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
            self._cache = output.past_key_values
            if self._todo:
                return None
            token = draw(output.logits[0, -1].float(), self._sampling, self._generator)
        self._todo = [token]
        return token


def draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token id from `logits` of shape (vocabulary,), fp32.

    Raises:
        GenerationFailed: A logit is NaN, or none is finite.
    """
    best = logits.max()
    if not torch.isfinite(best):
        raise GenerationFailed(
            "the model computed values that are not numbers; if its dtype is fp16, try --dtype bf16"
        )
    if sampling.temperature < _GREEDY or sampling.top_p == 0:
        return int(logits.argmax())
    probabilities = torch.softmax((logits - best) / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        probabilities = _nucleus(probabilities, sampling.top_p)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero all but the most likely tokens that together reach `top_p` (Holtzman et al., 2019)."""
    # Nearly always a few tokens hold the mass; sorting 128,000 for them would cost milliseconds.
    ordered, ids = probabilities.topk(min(_LIKELY, probabilities.numel()))
    if ordered.sum() < top_p:
        ordered, ids = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    # A token stays if the mass before it has not reached top_p: the most likely one always stays.
    kept = torch.where(before < top_p, ordered, torch.zeros_like(ordered))
    return torch.zeros_like(probabilities).scatter_(0, ids, kept)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Map what torch raises when memory runs out, on a GPU or a CPU."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemory(_NO_MEMORY) from error
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or "allocate memory" in text or "bad_alloc" in text:
            raise OutOfMemory(_NO_MEMORY) from error
        raise


_NO_MEMORY = (
    "the device ran out of memory for this request: shorten the prompt, or start the server "
    "with a smaller --max-context"
)
