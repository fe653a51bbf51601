"""The model on its device: one step of many sequences in, a drawn token for each out."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any

import torch

from llm_offline.engine import attention, drawing, sampler
from llm_offline.engine.attention import Paged, Segment
from llm_offline.engine.device import memory, memory_errors
from llm_offline.engine.interface import GenerationRequest, TokenLogprob
from llm_offline.engine.kv_cache import BlockPool
from llm_offline.engine.sequence import Drawn, Sequence
from llm_offline.engine.step import Row
from llm_offline.errors import StartError

BLOCK = 16
"""Tokens a block of the KV cache."""

# A step's tokens: a client that goes away, and the other sequences, wait no longer than it takes.
_STEP_CPU = 256
_STEP_GPU = 2048
# Any text will do to compare two ways of computing the same; some blocks long.
_PROBE = tuple(range(3, 3 + 2 * BLOCK + 5))


class Runner:
    """Weights and KV cache on a device, used by one thread."""

    def __init__(
        self, model: Any, *, device: str, stop_ids: frozenset[int], quantized: bool = False
    ) -> None:
        """`model` is a transformers causal LM in its final dtype; it moves to `device`.

        `quantized`: its linear layers round more than the dtype does.

        Raises:
            StartError: It does not fit on the device, or its attention is of another kind.
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
        self.device = device
        self.stop_ids = stop_ids
        """Ids that end a text."""
        self.step_tokens = _STEP_CPU if device == "cpu" else _STEP_GPU
        """Most tokens a step should have."""
        self.block_size = BLOCK
        self._quantized = quantized
        self._reference = _own_logits(self._model)
        self._layers = attention.layer_shapes(self._model)
        if len(self._layers) != model.config.get_text_config().num_hidden_layers:
            raise self._unfit("not all of their layers are attention that can be replaced")
        self.blocks = 0
        """Blocks of the KV cache."""

    @property
    def vocabulary(self) -> int:
        """Width of the logits."""
        return self._reference.shape[-1]

    @property
    def bytes_per_token(self) -> int:
        """What one token takes in the KV cache."""
        numbers = sum(s.heads * (s.key_dim + s.value_dim) for _, s in self._layers)
        return numbers * int(self._model.dtype.itemsize)

    def allocate(self, tokens: int) -> None:
        """Make the KV cache, for `tokens` tokens, and try the model with it.

        Raises:
            StartError: It does not fit, or the model's attention is none that is supported.
        """
        self.blocks = -(-tokens // BLOCK)
        try:
            attention.install(self._model, self._layers, self.blocks, BLOCK)
        except torch.OutOfMemoryError as error:
            raise StartError(
                f"a KV cache of {tokens} tokens does not fit on {self.device}: start with a "
                "smaller --kv-memory or --max-context"
            ) from error
        self._check()

    def step(self, rows: Items[Row]) -> list[Drawn]:
        """Compute all rows together and draw their tokens.

        Raises:
            OutOfMemory: The device has not enough memory left.
        """
        with memory_errors(), torch.inference_mode():
            logits = self._forward(rows)
            return self._draw(logits, rows)

    def memory(self) -> dict[str, int]:
        """Bytes in use by this process and free on its device, for `/health`."""
        return memory(self._device)

    def _forward(self, rows: Items[Row]) -> torch.Tensor:
        """Logits of all positions that are sampled: `[samples, vocabulary]`, fp32."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        wanted: list[int] = []
        segments = []
        for row in rows:
            first, count, length = len(tokens), len(row.tokens), row.start + len(row.tokens)
            table = row.sequence.table
            blocks = table.blocks
            run = blocks[0] * BLOCK if table.is_run else None
            tokens += row.tokens
            positions += range(row.start, length)
            slots += [blocks[at // BLOCK] * BLOCK + at % BLOCK for at in range(row.start, length)]
            wanted += range(len(tokens) - row.samples, len(tokens))
            segments.append(Segment(first, count, length, self._ids(blocks), run))
        # A row without samples still needs some position: its logits are thrown away.
        output = self._model(
            input_ids=self._ids(tokens)[None],
            position_ids=self._ids(positions)[None],
            use_cache=False,
            logits_to_keep=self._ids(wanted or [0]),
            paged=Paged(self._ids(slots), segments),
        )
        logits: torch.Tensor = output.logits[0]
        return logits[: len(wanted)].float()

    def _ids(self, values: Items[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)

    def _draw(self, logits: torch.Tensor, rows: Items[Row]) -> list[Drawn]:
        if not len(logits):
            return [Drawn([], []) for _ in rows]
        draws = [draw for row in rows for draw in drawing.draws(row)]
        numbers = torch.isfinite(logits.amax(-1)).tolist()
        asked = [draw.sampling.logprobs for draw in draws]
        before = logits.log_softmax(-1) if any(n is not None for n in asked) else None
        tokens = sampler.draw(logits, draws).tolist()
        found = []
        at = 0
        for row in rows:
            until = at + row.samples
            logprobs = (
                []
                if before is None or row.sequence.request.sampling.logprobs is None
                else [_logprob(before[n], tokens[n], asked[n] or 0) for n in range(at, until)]
            )
            found.append(Drawn(tokens[at:until], logprobs, all(numbers[at:until])))
            at = until
        return found

    def _check(self) -> None:
        """Compare with the model's own attention, also to page the weights in before users come.

        Raises:
            StartError: The logits differ: this model's attention is of another kind.
        """
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
        half = len(ids) // 2
        with torch.inference_mode():
            pieces = [
                self._forward([Row(sequence, start, ids[start:until], until - start)])
                for start, until in ((0, half), (half, len(ids) - 1), (len(ids) - 1, len(ids)))
            ]
        sequence.table.release()
        ours, theirs = torch.cat(pieces), self._reference
        wrong = (ours - theirs).norm() / theirs.norm()
        # bf16 rounds to 8 bits, as activations of 8 bits do, and layer upon layer adds to it.
        exact = self._model.dtype == torch.float32 and not self._quantized
        allowed = 1e-3 if exact else 0.1
        if not bool(wrong < allowed):
            raise self._unfit(f"their output differs from the model's own by {float(wrong):.1%}")

    def _unfit(self, reason: str) -> StartError:
        return StartError(
            f"models of type {self._model.config.model_type!r} do not work with this server: "
            f"{reason}; use a model such as Llama, Qwen, Mistral, Gemma 3 or Phi"
        )


def _own_logits(model: Any) -> torch.Tensor:
    """The model's own logits, with its own attention, for a fixed text: `[n, vocabulary]`."""
    with torch.inference_mode():
        ids = torch.tensor([_PROBE], device=model.device)
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
        return logits.float()


def _logprob(logprobs: torch.Tensor, token: int, count: int) -> TokenLogprob:
    best = logprobs.topk(count)
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), top)
