"""A step that only decodes, in buffers that never move, filled up to one of a few shapes.

What a CUDA graph replays reads and writes the same addresses with the same shapes each time. So a
step's rows are filled up to a bucket, all numbers of a step lie behind one another in one buffer,
and reach the device in one copy. Block 0 of the cache belongs to no sequence: what fills up is all
zeros and therefore writes there, and is never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from math import prod
from typing import Any, NamedTuple

import torch

from llm_offline.engine.step import Row

MOST_ROWS = 64
"""Rows of the largest bucket."""


class Bucket(NamedTuple):
    """The shape of a step: sequences, and tokens that each is fed."""

    rows: int
    fed: int


def buckets(most_rows: int, most_fed: int) -> list[Bucket]:
    """1, 2, 4 … rows, up to what `most_rows` need or 64; each with one token, and with the most."""
    least = min(most_rows, MOST_ROWS)
    rows = [2**n for n in range((least - 1).bit_length() + 1)]
    return [Bucket(n, fed) for n in rows for fed in sorted({1, most_fed})]


class Inputs(NamedTuple):
    """What the model reads of a step, for a bucket of B rows and T = B * fed tokens; all int64.

    Attributes:
        tokens: `[T]`.
        positions: `[T]`.
        slots: `[T]`, where each token's keys and values are written.
        wanted: `[T]`, tokens after which another is drawn come first.
        lengths: `[B]`, tokens of each sequence up to and with these.
        tables: `[B, blocks]`, the blocks of each sequence.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    wanted: torch.Tensor
    lengths: torch.Tensor
    tables: torch.Tensor


class _Arrays(NamedTuple):
    """`Inputs` as numpy sees them on the host."""

    tokens: Any
    positions: Any
    slots: Any
    wanted: Any
    lengths: Any
    tables: Any


class StaticBatch:
    """The buffers of all buckets: the same memory, cut in another way for each."""

    def __init__(
        self, shapes: Items[Bucket], *, blocks: int, block_size: int, device: torch.device
    ) -> None:
        """`blocks`: most blocks of a sequence."""
        self.shapes = sorted(shapes)
        self._blocks = blocks
        self._size = block_size
        most = max(self._numbers(shape) for shape in shapes)
        self._device = torch.zeros(most, dtype=torch.long, device=device)
        self._pinned = torch.zeros(most, dtype=torch.long, pin_memory=device.type == "cuda")
        cuda: Any = torch.cuda
        self._copied = cuda.Event() if device.type == "cuda" else None
        # The same memory for numpy, which takes Python's lists several times faster.
        self._host: Any = self._pinned.numpy()
        self._views = {shape: self._cut(self._device, shape) for shape in shapes}
        self._host_views = {
            shape: _Arrays(*(part.numpy() for part in self._cut(self._pinned, shape)))
            for shape in shapes
        }

    def takes(self, row: Row) -> bool:
        """Whether a bucket has room for what the row is fed."""
        return len(row.tokens) <= self.shapes[-1].fed

    def parts(self, rows: Items[Row]) -> Iterator[Items[Row]]:
        """The rows, as many at a time as the largest bucket holds."""
        most = self.shapes[-1].rows
        return (rows[at : at + most] for at in range(0, len(rows), most))

    def inputs(self, shape: Bucket) -> Inputs:
        """The device's buffers for a bucket: always the same ones."""
        return self._views[shape]

    def clear(self, shape: Bucket) -> None:
        """Nothing but filling: for trying the bucket."""
        self._device[: self._numbers(shape)].zero_()

    def fill(self, rows: Items[Row]) -> Bucket:
        """Write the rows to the smallest bucket that holds them; one copy to the device."""
        most = max(len(row.tokens) for row in rows)
        shape = next(one for one in self.shapes if one.rows >= len(rows) and one.fed >= most)
        numbers, room = self._numbers(shape), shape.rows * shape.fed
        tokens, positions, slots = [0] * room, [0] * room, [0] * room
        lengths, wanted = [0] * shape.rows, list[int]()
        if self._copied is not None:
            self._copied.synchronize()  # the last copy may still be reading
        self._host[:numbers] = 0
        host = self._host_views[shape]
        for number, row in enumerate(rows):
            first, until = number * shape.fed, number * shape.fed + len(row.tokens)
            lengths[number] = row.start + len(row.tokens)
            blocks = row.sequence.table.blocks
            places = range(row.start, lengths[number])
            tokens[first:until] = row.tokens
            positions[first:until] = places
            slots[first:until] = [
                blocks[at // self._size] * self._size + at % self._size for at in places
            ]
            wanted += range(until - row.samples, until)
            host.tables[number, : len(blocks)] = blocks
        host.tokens[:], host.positions[:], host.slots[:] = tokens, positions, slots
        host.lengths[:] = lengths
        host.wanted[: len(wanted)] = wanted
        self._device[:numbers].copy_(self._pinned[:numbers], non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        return shape

    def _numbers(self, shape: Bucket) -> int:
        return sum(prod(part) for part in self._fields(shape))

    def _fields(self, shape: Bucket) -> list[tuple[int, ...]]:
        """The shapes of the fields of `Inputs`, in their order."""
        tokens = shape.rows * shape.fed
        return [(tokens,)] * 4 + [(shape.rows,), (shape.rows, self._blocks)]

    def _cut(self, whole: torch.Tensor, shape: Bucket) -> Inputs:
        parts, at = [], 0
        for field in self._fields(shape):
            parts.append(whole[at : at + prod(field)].view(field))
            at += prod(field)
        return Inputs(*parts)
