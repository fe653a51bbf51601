"""Steps of fixed shape, recorded once and replayed: CUDA graphs.

A step of a 3B model launches a thousand kernels of a few microseconds each, which Python cannot
issue as fast as a GPU computes them. A graph issues all of them at once. It is recorded for each
bucket when the model is loaded, and replays on the buffers that it was recorded with
(`static_batch`). Compiled layers, where they work, fuse what lies between the matrix products.

`Anew` keeps the same contract without a graph: on a CPU, for tests, and where recording fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import nn

from llm_offline.engine.compute.static_batch import Bucket, StaticBatch
from llm_offline.errors import first_line

log = logging.getLogger(__name__)

Recording = Literal["compiled", "plain", "off"]
"""Graphs of compiled layers, of the layers as they are, or none."""

Compute = Callable[[Bucket], torch.Tensor]
"""Logits of a bucket's `wanted` tokens, from what its buffers hold: `[T, vocabulary]`."""

_MOST_COMPILED = 32
_WARM_UP = 2  # runs before recording: kernels are built, libraries take their memory


class Steps(Protocol):
    """Computes what lies in the buffers."""

    name: str
    """What a person reads in the start's remarks."""
    batch: StaticBatch
    """The buffers."""

    def run(self, shape: Bucket) -> torch.Tensor:
        """Logits `[T, vocabulary]`, which the next call overwrites."""
        ...


class Anew:
    """Every step is computed by calling the model."""

    name = "no CUDA graphs"

    def __init__(self, compute: Compute, batch: StaticBatch) -> None:
        self.batch = batch
        self._compute = compute

    def run(self, shape: Bucket) -> torch.Tensor:
        """See `Steps`."""
        return self._compute(shape)


class Graphs:
    """Every step is the replay of its bucket's graph."""

    def __init__(self, compute: Compute, batch: StaticBatch, name: str) -> None:
        """Records all buckets.

        Raises:
            RuntimeError: The model does something that no graph can hold; or memory runs out.
        """
        self.name = name
        self.batch = batch
        self._compute = compute
        # One place for all graphs' results: each with its own would take as much as the cache.
        self._logits = torch.empty(0)
        self._graphs: dict[Bucket, Any] = {}
        pool = None
        # The largest first: the others find room in its memory.
        for shape in reversed(batch.shapes):
            batch.clear(shape)
            self._graphs[shape] = _recorded(partial(self._write, shape), pool)
            pool = pool or self._graphs[shape].pool()

    def run(self, shape: Bucket) -> torch.Tensor:
        """See `Steps`."""
        self._graphs[shape].replay()
        return self._logits[: shape.rows * shape.fed]

    def _write(self, shape: Bucket) -> None:
        logits = self._compute(shape)
        if not len(self._logits):
            self._logits = torch.empty_like(logits)
        self._logits[: len(logits)].copy_(logits)


def _recorded(work: Callable[[], None], pool: Any) -> Any:
    """The graph of `work`, which shares memory with those of `pool`."""
    aside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # What other threads ask of the driver meanwhile, such as its free memory, is not recorded.
    with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
        work()
    return graph


def record(
    wanted: Recording, compute: Compute, batch: StaticBatch, layers: Iterable[nn.Module]
) -> Steps:
    """The fastest way that works on this machine; one line in the log for each that does not.

    Args:
        wanted: The first way to try; the simpler ones are tried after it.
        compute: The model.
        batch: Its buffers.
        layers: What to compile: the model's layers, each with one attention module.
    """
    ways: tuple[Recording, ...] = ("compiled", "plain")
    for way in ways[ways.index(wanted) :] if wanted != "off" else ():
        try:
            if way == "plain":
                return Graphs(compute, batch, "CUDA graphs")
            with compiled(layers):
                return Graphs(compute, batch, "CUDA graphs of compiled layers")
        except Exception as error:
            # Whatever a compiler or a driver makes of this machine, the model works without.
            log.debug("%s CUDA graphs failed where they were tried", way, exc_info=True)
            reason = first_line(error)
            log.warning("%s CUDA graphs do not work here, going on without: %s", way, reason)
    return Anew(compute, batch)


@contextmanager
def compiled(layers: Iterable[nn.Module], **options: Any) -> Iterator[None]:
    """Layers run as torch's compiler makes them, for a while: what is recorded meanwhile stays so.

    Layer by layer and not the whole model: alike layers share one compiled graph, in seconds
    instead of a minute. `options` are `torch.compile`'s.
    """
    # Only here: it takes a second to import.
    from torch._dynamo import config

    some = list(layers)
    # A few shapes are compiled before the rest share one; a model may mix kinds of layers.
    patience = config.patch(recompile_limit=_MOST_COMPILED)
    for layer in some:
        layer.forward = torch.compile(layer.forward, **options)
    try:
        with patience:
            yield
    finally:
        for layer in some:
            del layer.forward


def layers_around(model: nn.Module, attentions: Iterable[nn.Module]) -> list[nn.Module]:
    """The model's layers: members of a list of modules, each around one of `attentions`."""
    wanted = {id(module) for module in attentions}
    return [
        layer
        for part in model.modules()
        if isinstance(part, nn.ModuleList)
        for layer in part
        if any(id(module) in wanted for module in layer.modules())
    ]
