"""Rows in buffers that never move, filled up to a bucket."""

from __future__ import annotations

import pytest
import torch

from llm_offline.engine.compute.static_batch import Bucket, StaticBatch, buckets
from llm_offline.engine.interface import GenerationRequest
from llm_offline.engine.kv_cache import BlockPool
from llm_offline.engine.sequence import Sequence
from llm_offline.engine.step import Row

SIZE = 4


def _row(pool: BlockPool, length: int, fed: int, samples: int) -> Row:
    """The last `fed` of a sequence's tokens, which are its positions plus 100."""
    tokens = tuple(range(100, 100 + length))
    sequence = Sequence(
        GenerationRequest(tokens), limit=1, pool=pool, decode=str, stop_ids=frozenset()
    )
    assert sequence.table.reserve(length)
    return Row(sequence, length - fed, list(tokens[-fed:]), samples)


def _batch(most_rows: int = 4) -> StaticBatch:
    return StaticBatch(buckets(most_rows, 3), blocks=5, block_size=SIZE, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("most", "rows"),
    [(1, [1]), (3, [1, 2, 4]), (16, [1, 2, 4, 8, 16]), (500, [2**n for n in range(7)])],
)
def test_buckets(most: int, rows: list[int]) -> None:
    assert buckets(most, 5) == [Bucket(n, fed) for n in rows for fed in (1, 5)]


def test_what_fills_up_writes_to_the_block_of_nobody() -> None:
    pool = BlockPool(20, SIZE, share=False)
    batch = _batch()
    # Whatever lay there before must not be read again.
    batch.fill([_row(pool, 20, 3, 3)] * 4)
    rows = [_row(pool, 9, 1, 1), _row(pool, 6, 3, 3), _row(pool, 2, 2, 0)]
    shape = batch.fill(rows)
    assert shape == Bucket(4, 3)
    found = batch.inputs(shape)
    tables = [row.sequence.table.blocks for row in rows]
    assert found.tokens.tolist() == [108, 0, 0, 103, 104, 105, 100, 101, 0, 0, 0, 0]
    assert found.positions.tolist() == [8, 0, 0, 3, 4, 5, 0, 1, 0, 0, 0, 0]
    assert found.lengths.tolist() == [9, 6, 2, 0]
    assert found.wanted.tolist() == [0, 3, 4, 5] + [0] * 8
    assert [row.tolist() for row in found.tables] == [
        [*blocks, *[0] * (5 - len(blocks))] for blocks in [*tables, []]
    ]
    real = [0, 3, 4, 5, 6, 7]
    slots = found.slots.tolist()
    assert all(slots[n] == 0 for n in range(12) if n not in real)
    assert slots[3:6] == [tables[1][at // SIZE] * SIZE + at % SIZE for at in (3, 4, 5)]
    assert min(slots[n] for n in real) >= SIZE


def test_a_bucket_always_has_the_same_memory() -> None:
    pool = BlockPool(20, SIZE, share=False)
    batch = _batch()
    row = _row(pool, 5, 1, 1)
    addresses = set()
    for _ in range(3):
        addresses.add(tuple(part.data_ptr() for part in batch.inputs(batch.fill([row]))))
        batch.fill([row, row])
    assert len(addresses) == 1


def test_rows_go_in_parts_and_long_ones_not_at_all() -> None:
    pool = BlockPool(20, SIZE, share=False)
    batch = _batch(2)
    rows = [_row(pool, 5, 1, 1) for _ in range(5)]
    assert [len(part) for part in batch.parts(rows)] == [2, 2, 1]
    assert batch.takes(_row(pool, 5, 3, 1))
    assert not batch.takes(_row(pool, 5, 4, 1))
