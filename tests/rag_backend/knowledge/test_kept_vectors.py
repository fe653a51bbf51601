"""Vectors in memory: bounded, and never older than the last change."""

from __future__ import annotations

import numpy as np
import pytest

from rag_backend.knowledge.kept_vectors import FileVectors, KeptVectors, nearest


def file_vectors(name: str, count: int = 2, version: str = "1") -> FileVectors:
    rows = np.eye(4, dtype=np.float32)[[n % 4 for n in range(count)]]
    return FileVectors(version, [f"{name}:{n}" for n in range(count)], rows)


def test_only_the_version_asked_for() -> None:
    kept = KeptVectors()
    kept.put("c", {"a": file_vectors("a")}, kept.epoch)
    assert kept.get("c", {"a": "1", "b": "1"}).keys() == {"a"}
    assert kept.get("c", {"a": "2"}) == kept.get("other", {"a": "1"}) == {}


def test_those_used_longest_ago_make_room() -> None:
    one = file_vectors("x").vectors.nbytes
    kept = KeptVectors(most_bytes=2 * one)
    for name in "ab":
        kept.put("c", {name: file_vectors(name)}, kept.epoch)
    kept.get("c", {"a": "1"})
    kept.put("c", {"c": file_vectors("c")}, kept.epoch)
    assert kept.get("c", {"a": "1", "b": "1", "c": "1"}).keys() == {"a", "c"}
    kept.put("c", {"d": file_vectors("d", count=8)}, kept.epoch)  # more than there is room for
    assert kept.get("c", dict.fromkeys("abcd", "1")) == {}


def test_what_was_read_before_a_change_is_not_kept_after_it() -> None:
    kept = KeptVectors()
    before = kept.epoch
    kept.forget("c", ["a"])
    kept.put("c", {"a": file_vectors("a")}, before)
    assert kept.get("c", {"a": "1"}) == {}
    kept.put("c", {"a": file_vectors("a"), "b": file_vectors("b")}, kept.epoch)
    kept.forget("c", ["a"])
    assert kept.get("c", {"a": "1", "b": "1"}).keys() == {"b"}
    kept.forget("c")
    assert kept.get("c", {"b": "1"}) == {}


def test_the_nearest_of_several_files() -> None:
    empty = FileVectors("1", (), np.empty((0, 0), dtype=np.float32))
    query = np.array([0, 2, 1, 0], dtype=np.float32)
    found = nearest([file_vectors("a", 4), empty, file_vectors("b", 2)], query, 3)
    assert [item for item, _ in found] == ["a:1", "b:1", "a:2"]
    assert [cosine for _, cosine in found] == pytest.approx([2 / 5**0.5, 2 / 5**0.5, 1 / 5**0.5])
