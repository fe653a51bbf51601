"""One ranking out of two."""

from __future__ import annotations

import pytest

from rag_backend.knowledge.fusion import fuse, leaning


def test_nothing_and_nothing() -> None:
    assert fuse([], []) == []


def test_one_ranking_alone_keeps_its_order() -> None:
    ranking = [("a", 9.0), ("b", 4.0), ("c", 1.0)]
    assert [item for item, _ in fuse([], ranking)] == ["a", "b", "c"]
    assert [item for item, _ in fuse(ranking, [])] == ["a", "b", "c"]


def test_scores_are_weighed_shares_of_each_rankings_range() -> None:
    # The best of each stands out as far as the other's, so neither is believed more than usual.
    dense, lexical = [("a", 0.9), ("b", 0.5), ("c", 0.1)], [("c", 20.0), ("b", 15.0), ("d", 10.0)]
    assert dict(fuse(dense, lexical, dense_weight=0.4)) == pytest.approx(
        {"a": 0.4, "b": 0.4 * 0.5 + 0.6 * 0.5, "c": 0.6, "d": 0.0}
    )


def test_equal_scores_are_ordered_by_id() -> None:
    assert fuse([("b", 1.0), ("a", 1.0)], []) == fuse([("a", 1.0), ("b", 1.0)], [])


def test_both_scores_within_0_and_1() -> None:
    fused = fuse([("a", -1.0), ("b", 1.0)], [("b", 1e9), ("c", -3.0)])
    assert all(0.0 <= score <= 1.0 for _, score in fused)
    assert fused[0] == ("b", 1.0)


def test_a_ranking_whose_best_stands_out_is_believed_more() -> None:
    clear = {"a": 1.0, "b": 0.1, "c": 0.0}
    vague = {"c": 1.0, "b": 0.9, "a": 0.8}
    assert leaning(clear, vague) > 1 > leaning(vague, clear)
    assert leaning(clear, clear) == leaning({}, vague) == leaning(clear, {}) == 1.0


def test_rankings_without_any_order_can_be_fused() -> None:
    flat = [("a", 0.5), ("b", 0.5)]
    assert dict(fuse(flat, flat)) == pytest.approx({"a": 1.0, "b": 1.0})
    assert all(0.0 <= score <= 1.0 for _, score in fuse(flat, [("b", 3.0), ("c", 1.0)]))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_all_the_weight_stays_all(weight: float) -> None:
    dense, lexical = [("a", 0.9), ("b", 0.8), ("c", 0.7)], [("c", 9.0), ("b", 1.0), ("a", 0.5)]
    assert fuse(dense, lexical, weight)[0][0] == ("a" if weight else "c")
