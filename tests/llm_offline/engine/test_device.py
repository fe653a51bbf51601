"""Choosing a device and a dtype; telling a lack of memory apart."""

from __future__ import annotations

import pytest
import torch

from llm_offline.engine.device import choose_device, choose_dtype, memory_errors
from llm_offline.errors import OutOfMemory, StartError


def test_a_device_that_is_not_there() -> None:
    if not torch.cuda.is_available():
        assert choose_device("auto") == "cpu"
        with pytest.raises(StartError, match="use --device cpu"):
            choose_device("cuda")


def test_dtype_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype("fp16", "cpu") == "fp16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_dtype("auto", "cpu") == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert choose_dtype("auto", "cpu") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert choose_dtype("auto", "cuda") == "fp16"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    ],
)
def test_running_out_of_memory_is_told_apart(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match="smaller --max-context"), memory_errors():
        raise error


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors():
        raise RuntimeError("shapes do not match")
