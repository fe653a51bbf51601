"""Triton's kernels against plain PyTorch, by Triton's interpreter; run by `test_triton_decode`."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from llm_offline.engine.compute.decoding import plain_decode
from llm_offline.engine.compute.graphs import compiled, layers_around
from llm_offline.engine.compute.runner import Runner
from llm_offline.engine.compute.triton_decode import choose_splits, decode, launch, tile_size
from tests.llm_offline.engine.models import CONFIGS, random_model

PAGE = 16
BLOCKS = 64
CASES = {
    "one head each": {"heads": 4, "kv_heads": 4, "dim": 16},
    "shared heads": {"heads": 6, "kv_heads": 2, "dim": 32},
    "an odd dimension": {"heads": 4, "kv_heads": 2, "dim": 24},
    "narrower values": {"heads": 4, "kv_heads": 1, "dim": 32, "value_dim": 16},
    "a window": {"heads": 4, "kv_heads": 2, "dim": 16, "window": 9},
    "capped scores": {"heads": 4, "kv_heads": 2, "dim": 16, "softcap": 5.0},
    "sinks and a window": {"heads": 4, "kv_heads": 2, "dim": 16, "window": 30, "sinks": True},
}  # fmt: skip


def _step(
    lengths: list[int], fed: int, dtype: torch.dtype, *, heads: int, kv_heads: int, dim: int,
    value_dim: int | None = None, window: int | None = None, softcap: float | None = None,
    sinks: bool = False,
) -> tuple[object, ...]:  # fmt: skip
    """A step's arguments; the memory that no sequence has written holds no numbers."""
    dice = torch.Generator().manual_seed(len(lengths) * 100 + fed)
    most = -(-max(lengths) // PAGE) + 1
    tables = torch.randperm(BLOCKS - 1, generator=dice)[: len(lengths) * most] + 1
    tables = tables.view(len(lengths), most)
    keys, values = (
        torch.full((kv_heads, BLOCKS * PAGE, width), torch.nan) for width in (dim, value_dim or dim)
    )
    for table, length in zip(tables, lengths, strict=True):
        slots = (table[:, None] * PAGE + torch.arange(PAGE)).view(-1)[:length]
        for whole in (keys, values):
            whole[:, slots] = torch.randn(kv_heads, length, whole.shape[2], generator=dice)
    # As a model makes it: the tokens' heads lie side by side.
    query = torch.randn(len(lengths) * fed, heads, dim, generator=dice).transpose(0, 1)
    ends = torch.tensor(lengths)
    positions = (ends[:, None] - fed + torch.arange(fed)).clamp(min=0).view(-1)
    sink = torch.randn(heads, generator=dice).to(dtype) if sinks else None
    return (
        query.to(dtype), keys.to(dtype), values.to(dtype), tables, ends, positions,
        PAGE, dim**-0.5, window, softcap, sink,
    )  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize(("fed", "splits"), [(1, 4), (5, 2)])
def test_fp32_gives_what_plain_torch_gives(kind: str, fed: int, splits: int) -> None:
    # Shorter than a tile, longer than one, and a row that fills the batch up.
    step = _step([fed, 140, 0], fed, torch.float32, **CASES[kind])  # type: ignore[arg-type]
    found, expected = launch(*step, splits=splits), plain_decode(*step)  # type: ignore[arg-type]
    assert not found[-fed:].any()
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("kind", ["shared heads", "capped scores"])
def test_fp16_gives_what_plain_torch_gives(kind: str) -> None:
    step = _step([5, 140], 5, torch.float16, **CASES[kind])  # type: ignore[arg-type]
    found, expected = decode(*step), plain_decode(*step)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_what_is_not_a_number_stays_so() -> None:
    step = list(_step([20, 20], 1, torch.float32, **CASES["shared heads"]))  # type: ignore[arg-type]
    query = torch.as_tensor(step[0]).clone()
    query[:, 0] = torch.nan
    found = launch(query, *step[1:], splits=2)  # type: ignore[arg-type]
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def test_a_small_batch_is_cut_into_more_splits() -> None:
    assert [choose_splits(rows, 8, 132) for rows in (1, 2, 8, 64)] == [32, 32, 8, 1]
    assert choose_splits(1, 8, 24) == 8  # an RTX 4060


def test_tiles_fit_every_gpu() -> None:
    for dim, size in product((16, 64, 96, 128, 256), (2, 4)):
        tile = tile_size(dim, dim, size)
        # 99 KiB is what consumer GPUs give a program; three tiles are on their way at a time.
        assert 16 <= tile <= 128
        assert 3 * tile * 2 * max(dim, 16) * size <= 99 * 1024


@pytest.mark.parametrize("kind", ["llama, tied weights", "gemma2, capped scores"])
def test_a_model_computes_the_same_through_them(kind: str) -> None:
    """As an operator, called by the model and by its compiled layers."""
    model = random_model(CONFIGS[kind]())
    runner = Runner(model, device="cpu", stop_ids=frozenset(), decode=decode)
    runner.allocate(128, context=64, most_rows=2)
    # The check at the start went through them, else they were given up.
    steps = runner._steps
    assert steps is not None
    layers = layers_around(model, [module for module, _ in runner._layers])
    shape = steps.batch.shapes[-1]
    with torch.inference_mode():
        expected = steps.run(shape)
        with compiled(layers, backend="aot_eager", fullgraph=True):
            torch.testing.assert_close(steps.run(shape), expected)
