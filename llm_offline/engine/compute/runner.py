"""The model on its device: one step of many sequences in, a drawn token for each out."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Items
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch

from llm_offline.engine.compute import attention
from llm_offline.engine.compute.attention import Segment, Separately, Together
from llm_offline.engine.compute.decoding import Decode, gpu_decode
from llm_offline.engine.compute.graphs import Recording, Steps, layers_around, record
from llm_offline.engine.compute.static_batch import Bucket, StaticBatch, buckets
from llm_offline.engine.hardware.device import memory, memory_errors
from llm_offline.engine.hardware.sizing import cpu_room, gpu_room, step_memory
from llm_offline.engine.interface import GenerationRequest
from llm_offline.engine.kv_cache import BlockPool
from llm_offline.engine.sampling.outcome import outcome
from llm_offline.engine.sequence import Drawn, Sequence
from llm_offline.engine.speculation import MOST
from llm_offline.engine.step import Row
from llm_offline.engine.weights.arranging import held_by
from llm_offline.engine.weights.joined import Product
from llm_offline.errors import StartError, first_line

log = logging.getLogger(__name__)

BLOCK = 16
"""Tokens a block of the KV cache."""

# A step's tokens: a client that goes away, and the other sequences, wait no longer than it takes.
_STEP_CPU = 256
_STEP_GPU = 1024
# Any text will do to compare two ways of computing the same; some blocks long.
_PROBE = tuple(range(3, 3 + 2 * BLOCK + 5))


class Runner:
    """Weights and KV cache on a device, used by one thread."""

    def __init__(
        self,
        model: Any,
        *,
        device: str,
        stop_ids: frozenset[int],
        quantized: bool = False,
        decode: Decode | None = None,
    ) -> None:
        """`model` is a transformers causal LM in its final dtype; it moves to `device`.

        `quantized`: its linear layers round more than the dtype does. `decode`: the attention of
        steps of fixed shape; None is Triton's on a CUDA device, and no such steps elsewhere, where
        they would only compute more.

        Raises:
            StartError: It does not fit on the device, or its attention is of another kind.
        """
        self._device = torch.device(device)
        free = self.memory()["free_bytes"] / 2**30

        def too_large() -> StartError:
            return StartError(
                f"the model's weights ({held_by(model) / 2**30:.1f} GiB) do not fit on {device}, "
                f"which had {free:.1f} GiB free: close what uses it, choose --quantization or a "
                "smaller model, or use --device cpu"
            )

        with memory_errors(too_large):
            self._model = model.to(device).eval()
            self._reference = _own_logits(self._model)
            self._layers = attention.layer_shapes(self._model)
        self._products = [part for part in self._model.modules() if isinstance(part, Product)]
        self.weights_bytes = held_by(self._model)
        """What the weights take, as they lie there now."""
        self.device = device
        self.stop_ids = stop_ids
        """Ids that end a text."""
        self.step_tokens = _STEP_CPU if device == "cpu" else _STEP_GPU
        """Most tokens a step should have."""
        self.block_size = BLOCK
        self._quantized = quantized
        if len(self._layers) != model.config.get_text_config().num_hidden_layers:
            raise self._unfit("not all of their layers are attention that can be replaced")
        self.blocks = 0
        """Blocks of the KV cache that sequences may have."""
        self._decode = decode
        self._steps: Steps | None = None
        self.difference = 0.0
        """How far the logits are from those of the model's own attention, once it was tried."""

    @property
    def model(self) -> Any:
        """The transformers model that it computes."""
        return self._model

    @property
    def vocabulary(self) -> int:
        """Width of the logits."""
        return self._reference.shape[-1]

    @property
    def bytes_per_token(self) -> int:
        """What one token takes in the KV cache."""
        numbers = sum(s.heads * (s.key_dim + s.value_dim) for _, s in self._layers)
        return numbers * int(self._model.dtype.itemsize)

    def room(self, most_rows: int, kv_memory: float | None = None, beside: int = 0) -> int:
        """Tokens for whose keys and values the device has memory; see `sizing`.

        Raises:
            StartError: There is too little.
        """
        memory = self.memory()
        if self._device.type != "cuda":
            return cpu_room(self.device, memory["free_bytes"], self.bytes_per_token, kv_memory)
        step = step_memory(
            self._model.config.get_text_config(),
            tokens=self.step_tokens,
            rows=most_rows,
            fed=1 + MOST,
            kv_heads=min(shape.heads for _, shape in self._layers),
            itemsize=self._model.dtype.itemsize,
        )
        return gpu_room(self.device, memory, self.bytes_per_token, step, kv_memory, beside)

    def allocate(
        self,
        tokens: int,
        *,
        context: int | None = None,
        most_rows: int = 16,
        graphs: Recording = "compiled",
    ) -> None:
        """Make the KV cache, for `tokens` tokens, and try the model with it.

        Args:
            tokens: Of all sequences together; what trying the model needs is more than few.
            context: Of one sequence; None is `tokens`.
            most_rows: Sequences that are computed together.
            graphs: How steps of fixed shape run, on a CUDA device.

        Raises:
            StartError: It does not fit, or the model's attention is none that is supported.
        """
        # However short texts may become: the one that tries the model needs room.
        self.blocks = _blocks(max(tokens, len(_PROBE)))
        self._steps = None

        def too_large() -> StartError:
            return StartError(
                f"a KV cache of {tokens} tokens ({tokens * self.bytes_per_token / 2**30:.2f} GiB), "
                f"and a step with it, do not fit on {self.device}: start with a smaller "
                "--kv-memory, --max-batch or --max-context"
            )

        with self._here(), memory_errors(too_large):
            # One more: block 0 belongs to nobody.
            attention.install(self._model, self._layers, self.blocks + 1, BLOCK)
            if not (wrong := self._difference()) < self._allowed:
                raise self._unfit(f"their output differs from the model's own by {wrong:.1%}")
            longest = max(context or tokens, len(_PROBE))
            self._prepare_decoding(_blocks(longest), most_rows, graphs)

    @property
    def decoding(self) -> str | None:
        """How steps of fixed shape run; None where there are none."""
        return self._steps.name if self._steps is not None else None

    def step(self, rows: Items[Row]) -> list[Drawn]:
        """Compute all rows together and draw their tokens.

        Raises:
            OutOfMemory: The device has not enough memory left.
        """
        try:
            with memory_errors(), torch.inference_mode(), self._here():
                ordered, logits = self._forward(rows)
                drawn = dict(zip(map(id, ordered), outcome(logits, ordered), strict=True))
        finally:
            # A step that fails inside a layer, for want of memory above all, leaves some behind.
            for product in self._products:
                product.forget()
        return [drawn[id(row)] for row in rows]

    def memory(self) -> dict[str, int]:
        """Bytes in use by this process and free on its device, for `/health`."""
        return memory(self._device)

    def _forward(self, rows: Items[Row]) -> tuple[Items[Row], torch.Tensor]:
        """Logits of all positions that are sampled, `[samples, vocabulary]` in fp32, and the rows
        in the order in which they come.

        Rows of few tokens go together in steps of fixed shape, where there are such steps.
        """
        steps = self._steps
        if steps is None:
            ordered = sorted(rows, key=lambda row: len(row.tokens) > 1)
            return ordered, self._separately(ordered)
        few = [row for row in rows if steps.batch.takes(row)]
        many = [row for row in rows if not steps.batch.takes(row)]
        parts = [_together(steps, some) for some in steps.batch.parts(few)]
        if many:
            parts.append(self._separately(many))
        return [*few, *many], torch.cat(parts) if len(parts) > 1 else parts[0]

    def _compute(self, batch: StaticBatch, decode: Decode, shape: Bucket) -> torch.Tensor:
        """The logits of what lies in a bucket's buffers: `[T, vocabulary]`."""
        inputs = batch.inputs(shape)
        output = self._model(
            input_ids=inputs.tokens[None],
            position_ids=inputs.positions[None],
            use_cache=False,
            logits_to_keep=inputs.wanted,
            paged=Together(inputs, decode),
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _separately(self, rows: Items[Row]) -> torch.Tensor:
        """Rows of one token come first."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        wanted: list[int] = []
        segments = []
        for row in rows:
            first, count, length = len(tokens), len(row.tokens), row.start + len(row.tokens)
            table = row.sequence.table
            blocks = table.blocks
            tokens += row.tokens
            positions += range(row.start, length)
            slots += [blocks[at // BLOCK] * BLOCK + at % BLOCK for at in range(row.start, length)]
            wanted += range(len(tokens) - row.samples, len(tokens))
            where = (blocks[0] * BLOCK,) if table.is_run else (None, self._ids(blocks))
            segments.append(Segment(first, count, length, *where))
        # A row without samples still needs some position: its logits are thrown away.
        output = self._model(
            input_ids=self._ids(tokens)[None],
            position_ids=self._ids(positions)[None],
            use_cache=False,
            logits_to_keep=self._ids(wanted or [0]),
            paged=Separately(self._ids(slots), segments),
        )
        logits: torch.Tensor = output.logits[0]
        return logits[: len(wanted)].float()

    def _ids(self, values: Items[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)

    def _prepare_decoding(self, blocks: int, most_rows: int, graphs: Recording) -> None:
        """Make the steps of fixed shape, if they work here; `blocks`: most of one sequence."""
        cuda = self._device.type == "cuda"
        try:
            decode = self._decode or (gpu_decode() if cuda else None)
        except ImportError as error:
            log.warning("decoding is slow: Triton, which PyTorch's build brings, lacks: %s", error)
            return
        if decode is None:
            return
        shapes = buckets(most_rows, 1 + MOST)
        batch = StaticBatch(shapes, blocks=blocks, block_size=BLOCK, device=self._device)
        layers = layers_around(self._model, (module for module, _ in self._layers))

        def compute(shape: Bucket) -> torch.Tensor:
            with torch.inference_mode():
                return self._compute(batch, decode, shape)

        self._steps = record(graphs if cuda else "off", compute, batch, layers)
        without = self.difference
        try:
            wrong = self._difference()
        except Exception as error:
            # Whatever a kernel or a driver makes of this machine (a shape is a ValueError, a launch
            # a TypeError, and Triton asserts), the model works without them.
            log.debug("%s failed where they were tried", self._steps.name, exc_info=True)
            reason = first_line(error)
        else:
            if wrong < self._allowed:
                return
            reason = f"its output differs from the model's own by {wrong:.1%}"
        log.warning("decoding is slow, for %s does not work here: %s", self._steps.name, reason)
        self._steps, self.difference = None, without

    @property
    def _allowed(self) -> float:
        """How far logits may be from the model's own."""
        # bf16 rounds to 8 bits, as activations of 8 bits do, and layer upon layer adds to it.
        exact = self._model.dtype == torch.float32 and not self._quantized
        return 1e-3 if exact else 0.1

    def _difference(self) -> float:
        """How far logits are from the model's own; also pages the weights in before users come."""
        pool = BlockPool(self.blocks, BLOCK, share=False)
        sequence = Sequence(
            GenerationRequest(_PROBE),
            limit=1,
            pool=pool,
            decode=lambda tokens: "",
            stop_ids=frozenset(),
        )
        ids = sequence.tokens
        sequence.table.reserve(len(ids))
        # Pieces of many tokens, of as many as guesses make, and of one.
        ends = [0, len(ids) // 2, len(ids) - 2 - MOST, len(ids) - 1, len(ids)]
        with torch.inference_mode():
            pieces = [
                self._forward([Row(sequence, start, ids[start:until], until - start)])[1]
                for start, until in pairwise(ends)
            ]
        sequence.table.release()
        ours, theirs = torch.cat(pieces), self._reference
        self.difference = float((ours - theirs).norm() / theirs.norm())
        return self.difference

    def _here(self) -> AbstractContextManager[object]:
        """Kernels are launched on the current device, which belongs to the thread."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _unfit(self, reason: str) -> StartError:
        return StartError(
            f"models of type {self._model.config.model_type!r} do not work with this server: "
            f"{reason}; use a model such as Llama, Qwen, Mistral, Gemma 3 or Phi"
        )


def _blocks(tokens: int) -> int:
    """Blocks that so many tokens fill."""
    return -(-tokens // BLOCK)


def _together(steps: Steps, rows: Items[Row]) -> torch.Tensor:
    """As `_separately`, in a step of fixed shape."""
    logits = steps.run(steps.batch.fill(rows))
    # A copy in any case: the next step overwrites what is drawn from.
    return logits[: sum(row.samples for row in rows)].to(torch.float32, copy=True)


def _own_logits(model: Any) -> torch.Tensor:
    """The model's own logits, with its own attention, for a fixed text: `[n, vocabulary]`."""
    with torch.inference_mode():
        ids = torch.tensor([_PROBE], device=model.device)
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
        return logits.float()
