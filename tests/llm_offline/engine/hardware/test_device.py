"""Choosing a device and a dtype; telling a lack of memory apart."""

from __future__ import annotations

import pytest
import torch

from llm_offline.engine.hardware.device import (
    choose_device,
    choose_dtype,
    give_back,
    memory,
    memory_errors,
)
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
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't "
                     "allocate memory: you tried to allocate 2199023255552 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=lambda error: str(error)[:40],
)  # fmt: skip
def test_running_out_of_memory_is_told_apart(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match="smaller --max-context"), memory_errors():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not match"),
        RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        KeyError("out of memory"),
    ],
    ids=str,
)
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as kept, memory_errors():
        raise error
    assert kept.value is error


def test_a_real_lack_of_memory_on_a_cpu() -> None:
    with pytest.raises(OutOfMemory), memory_errors():
        torch.empty(2**50, dtype=torch.uint8)


def test_the_sentence_is_the_callers() -> None:
    with (
        pytest.raises(StartError, match="a smaller model"),
        memory_errors(lambda: StartError("a smaller model")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_giving_back_on_a_device_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lost)
    give_back()
    with pytest.raises(OutOfMemory), memory_errors():
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_container_bounds_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "llm_offline.engine.hardware.device.container_room", lambda free, total: (7, 8)
    )
    found = memory(torch.device("cpu"))
    assert (found["free_bytes"], found["total_bytes"]) == (7, 8)
