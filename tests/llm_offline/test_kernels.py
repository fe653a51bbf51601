"""What is said of quantized weights on each kind of device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_offline import kernels
from llm_offline.kernels import slow_because


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was asked of a GPU whose kernels fail."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(kernels, "HAS_TRITON", True)
    monkeypatch.setattr(kernels, "working_kernels", lambda *of: asked.append(of))
    return asked


def test_where_there_is_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "HAS_TRITON", False)
    assert slow_because("int8", "cuda:0", "bf16") == (
        "its kernels need Triton, which is not installed"
    )
    assert slow_because("int8", "cpu", "bf16") is None


def test_where_triton_is_and_does_not_work(tried: list[tuple[Any, ...]]) -> None:
    assert "do not work here" in str(slow_because("int4", "cuda:1", "fp16"))
    assert tried == [(4, torch.device("cuda", 1), torch.float16)]


def test_where_it_works(monkeypatch: pytest.MonkeyPatch, tried: list[tuple[Any, ...]]) -> None:
    monkeypatch.setattr(kernels, "working_kernels", lambda *_: kernels)
    assert slow_because("int8", "cuda:0", "bf16") is None


def test_what_does_not_need_it(tried: list[tuple[Any, ...]]) -> None:
    assert slow_because("none", "cuda:0", "bf16") is None
    assert slow_because("int4", "cpu", "bf16") is None
    assert slow_because("int8", "mps", "fp16") == "its kernels are for CUDA, and this is mps"
    assert tried == []
