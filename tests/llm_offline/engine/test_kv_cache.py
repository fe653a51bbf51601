"""Blocks: owned, shared, forgotten."""

from __future__ import annotations

from llm_offline.engine.kv_cache import BlockPool, BlockTable


def _filled(pool: BlockPool, tokens: list[int]) -> BlockTable:
    table = BlockTable(pool)
    table.reuse(tokens)
    assert table.reserve(len(tokens))
    table.remember(tokens, len(tokens))
    return table


def test_all_or_nothing() -> None:
    table = BlockTable(BlockPool(3, 4))
    assert not table.reserve(13)
    assert table.blocks == []
    assert table.reserve(12)
    assert sorted(table.blocks) == [1, 2, 3]  # 0 belongs to nobody


def test_a_prefix_is_shared_while_it_is_used_and_after() -> None:
    pool = BlockPool(8, 4)
    tokens = list(range(10))
    first = _filled(pool, tokens)
    second = BlockTable(pool)
    assert second.reuse([*tokens[:8], 99, 98]) == 8
    assert second.blocks == first.blocks[:2]
    first.release()
    second.release()
    assert pool.available == 8
    third = BlockTable(pool)
    assert third.reuse(tokens) == 8
    assert pool.available == 6


def test_the_last_token_is_always_computed() -> None:
    pool = BlockPool(8, 4)
    tokens = list(range(8))
    _filled(pool, tokens).release()
    assert BlockTable(pool).reuse(tokens) == 4
    assert BlockTable(pool).reuse([*tokens, 8]) == 8


def test_the_same_block_after_another_one_is_another_block() -> None:
    pool = BlockPool(8, 4)
    _filled(pool, [1, 2, 3, 4, 5, 6, 7, 8]).release()
    assert BlockTable(pool).reuse([9, 9, 9, 9, 5, 6, 7, 8, 0]) == 0
    assert BlockTable(pool).reuse([5, 6, 7, 8, 0]) == 0


def test_the_least_recently_used_goes_first_and_the_deepest_of_it() -> None:
    pool = BlockPool(4, 4)
    old, new = [*range(8)], [*range(50, 58)]
    _filled(pool, old).release()
    _filled(pool, new).release()
    taken = BlockTable(pool)
    assert taken.reserve(4)
    assert BlockTable(pool).reuse([*old, 0]) == 4
    assert BlockTable(pool).reuse([*new, 0]) == 8


def test_what_two_computed_at_once_is_kept_once() -> None:
    pool = BlockPool(8, 4)
    tokens = list(range(8))
    tables = [BlockTable(pool) for _ in range(2)]
    for table in tables:
        assert table.reserve(8)
        table.remember(tokens, 8)
    for table in tables:
        table.release()
    assert BlockTable(pool).reuse([*tokens, 9]) == 8
    assert pool.available == 6


def test_nothing_is_shared_where_it_is_not_wanted() -> None:
    pool = BlockPool(8, 4, share=False)
    tokens = list(range(9))
    _filled(pool, tokens)
    assert BlockTable(pool).reuse(tokens) == 0
