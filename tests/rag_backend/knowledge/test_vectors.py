"""Cosine neighbours in Chroma: embedded, and a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag_backend.errors import StorageBroken
from rag_backend.knowledge.models import new_id
from rag_backend.knowledge.vectors import VectorIndex, open_embedded, open_server
from tests.servers import Missing, chroma, free_port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Chroma server of the installed version."""
    try:
        with chroma(tmp_path_factory.mktemp("chroma")) as url:
            yield url
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=["embedded", "server"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorIndex]:
    """The same behaviour is wanted of both."""
    if request.param == "embedded":
        opened = open_embedded(tmp_path)
    else:
        opened = open_server(request.getfixturevalue("server"))
    yield opened
    opened.close()


@pytest.fixture
def store() -> str:
    return f"{new_id('vs_')}-0"


def axes(count: int, size: int = 4) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.eye(size, dtype=np.float32)[[n % size for n in range(count)]]


def test_nearest_first_with_their_cosines(index: VectorIndex, store: str) -> None:
    vectors = np.array([[1, 0, 0], [0.6, 0.8, 0], [-1, 0, 0]], dtype=np.float32)
    index.add(store, ["a:0", "a:1", "b:0"], ["a", "a", "b"], vectors)
    found = index.search(store, np.array([1, 0, 0], dtype=np.float32), 5)
    assert [item for item, _ in found] == ["a:0", "a:1", "b:0"]
    assert [cosine for _, cosine in found] == pytest.approx([1.0, 0.6, -1.0], abs=1e-5)
    assert index.count(store) == 3


def test_only_the_files_asked_for(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0", "b:0", "c:0"], ["a", "b", "c"], axes(3))
    query = axes(1)[0]
    assert {i for i, _ in index.search(store, query, 5, ["b", "c"])} == {"b:0", "c:0"}
    assert index.search(store, query, 5, ["nobody"]) == []
    assert index.search(store, query, 5, []) == []


def test_a_filter_of_very_many_files(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0", "b:0"], ["a", "b"], axes(2))
    many = [f"file-{n}" for n in range(12_000)]
    found = index.search(store, axes(1)[0], 1, ["b", *many, "a"])
    assert [item for item, _ in found] == ["a:0"]
    index.delete_files(store, ["b", *many, "a"])
    assert index.ids(store) == set()


def test_adding_again_overwrites(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0", "a:1"], ["a", "a"], axes(2))
    index.add(store, ["a:0"], ["a"], axes(4)[3:])
    assert index.ids(store) == {"a:0", "a:1"}
    assert index.search(store, axes(4)[3], 1)[0][0] == "a:0"


def test_deleting_files(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0", "a:1", "b:0"], ["a", "a", "b"], axes(3))
    index.delete_files(store, ["a", "unknown"])
    assert index.ids(store) == {"b:0"}


def test_a_collection_that_does_not_exist_is_empty(index: VectorIndex, store: str) -> None:
    assert index.search(store, axes(1)[0], 5) == []
    assert (index.count(store), index.ids(store)) == (0, set())
    index.delete_files(store, ["a"])
    index.drop(store)


def test_a_dropped_collection_is_gone(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0"], ["a"], axes(1))
    index.drop(store)
    assert index.ids(store) == set()


def test_more_than_one_batch(index: VectorIndex, store: str) -> None:
    ids = [f"a:{n}" for n in range(4500)]
    index.add(store, ids, ["a"] * 4500, axes(4500))
    assert index.ids(store) == set(ids)


def test_vectors_of_another_length_are_a_sentence(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0"], ["a"], axes(1))
    with pytest.raises(StorageBroken, match="dimension"):
        index.add(store, ["a:1"], ["a"], axes(1, size=5))
    index.heartbeat()


def test_reopened(tmp_path: Path, store: str) -> None:
    first = open_embedded(tmp_path)
    first.add(store, ["a:0"], ["a"], axes(1))
    first.close()
    again = open_embedded(tmp_path)
    assert again.search(store, axes(1)[0], 1)[0][0] == "a:0"
    again.close()


def test_a_server_that_does_not_answer_is_a_sentence() -> None:
    with pytest.raises(StorageBroken, match=r"CHROMA_URL=http://127\.0\.0\.1:\d+\. Start it"):
        open_server(f"http://127.0.0.1:{free_port()}")


def test_a_directory_that_is_no_database_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "chroma.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageBroken, match="ingest rebuild"):
        open_embedded(tmp_path)
