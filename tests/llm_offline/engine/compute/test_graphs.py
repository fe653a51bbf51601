"""Recording steps of fixed shape: what is tried, what is fallen back to, what the compiler sees."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from llm_offline.engine.compute import graphs
from llm_offline.engine.compute.decoding import plain_decode
from llm_offline.engine.compute.graphs import Anew, compiled, layers_around, record
from llm_offline.engine.compute.runner import Runner
from llm_offline.engine.compute.static_batch import Bucket, StaticBatch
from tests.llm_offline.engine.models import CONFIGS, random_model


def _batch() -> StaticBatch:
    return StaticBatch([Bucket(1, 1)], blocks=2, block_size=16, device=torch.device("cpu"))


def _never(shape: Bucket) -> torch.Tensor:
    raise AssertionError


@pytest.mark.parametrize(("wanted", "tried"), [("compiled", 2), ("plain", 1), ("off", 0)])
@pytest.mark.parametrize("kind", [RuntimeError, OSError, ValueError, TypeError, AssertionError])
def test_what_cannot_be_recorded_is_computed_anew(
    wanted: Any,
    tried: int,
    kind: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refused(*_: object) -> None:
        raise kind("operation not permitted when stream is capturing\nmore lines")

    monkeypatch.setattr(graphs, "_recorded", refused)
    with caplog.at_level(logging.WARNING):
        steps = record(wanted, _never, _batch(), [])
    assert isinstance(steps, Anew)
    assert len(caplog.messages) == tried
    for line in caplog.messages:
        assert line.endswith("when stream is capturing")
        assert "\n" not in line


def test_each_bucket_is_recorded_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Graph:
        """A graph as CUDA's: it does again what was done while it was recorded."""

        def __init__(self, work: Any) -> None:
            self.replay = work
            work()

        def pool(self) -> str:
            return "pool"

    pools = []

    def recorded(work: Any, pool: Any) -> Any:
        pools.append(pool)
        return Graph(work)

    monkeypatch.setattr(graphs, "_recorded", recorded)
    shapes = [Bucket(rows, fed) for rows in (1, 2) for fed in (1, 5)]
    batch = StaticBatch(shapes, blocks=2, block_size=16, device=torch.device("cpu"))
    steps = record("plain", lambda shape: batch.inputs(shape).positions.float() + 1, batch, [])
    assert pools == [None, "pool", "pool", "pool"]
    for shape in shapes:
        batch.inputs(shape).positions.fill_(3)
        assert steps.run(shape).tolist() == [4.0] * shape.rows * shape.fed


@pytest.mark.parametrize("kind", ["llama, tied weights", "qwen3", "gemma3, a window"])
def test_all_layers_of_a_kind_are_one_compiled_graph(kind: str) -> None:
    """No graph breaks, few graphs whatever the buckets, and the same logits."""
    torch._dynamo.reset()
    model = random_model(CONFIGS[kind]())
    runner = Runner(model, device="cpu", stop_ids=frozenset(), decode=plain_decode)
    runner.allocate(512, context=64, most_rows=4)
    steps = runner._steps
    assert steps is not None
    layers = layers_around(model, [module for module, _ in runner._layers])
    assert len(layers) == 4
    counter = CompileCounterWithBackend("eager")
    for shape in steps.batch.shapes:
        steps.batch.clear(shape)
        with torch.inference_mode():
            expected = steps.run(shape)
            with compiled(layers, backend=counter, fullgraph=True):
                torch.testing.assert_close(steps.run(shape), expected)
    kinds = 2 if "window" in kind else 1
    # The first shapes, of one row or one token, have their own; all others share one.
    assert counter.frame_count <= 5 * kinds
    assert "forward" not in vars(layers[0])
