"""The encoder in 8 bits: what it is taken for, how near it is, and whose turn it is."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from rag_backend.knowledge.bert_graph import build, recognise
from rag_backend.knowledge.embedding import load_embedding, load_in_torch, probe, same_model
from rag_backend.knowledge.int8 import Int8Embedding
from rag_backend.knowledge.turns import Turns
from rag_backend.text import nfc, words

TEXTS = [
    "Employees may carry over five days of annual leave until the end of March.",
    "Người điều khiển xe máy phải đội mũ bảo hiểm khi tham gia giao thông.",
    "lunch",
    "",
    "The committee approved the budget of the library. " * 40,
    "?!",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    tokenizer = load_embedding("embedded").tokenizer_file
    assert tokenizer is not None
    return tokenizer.parent


@pytest.fixture(scope="module")
def quantised(folder: Path) -> Int8Embedding:
    bert = recognise(folder)
    assert bert is not None
    return Int8Embedding(bert, "embedded")


def copied(folder: Path, target: Path, **changed: Callable[[Any], Any]) -> Path:
    """The folder with some of its JSON files changed; the weights are linked."""
    target.mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            copy.symlink_to(path)
    for name, change in changed.items():
        path = target / name.replace("__", "/").replace("_json", ".json")
        value = change(json.loads(path.read_text("utf-8")))
        path.unlink()
        path.write_text(json.dumps(value), "utf-8")
    return target


def test_the_packaged_encoder_is_recognised(folder: Path, tmp_path: Path) -> None:
    bert = recognise(copied(folder, tmp_path / "same"))
    assert bert is not None
    assert (bert.layers, bert.heads, bert.max_tokens) == (6, 12, 256)


DIFFERENT: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "architecture": ("config_json", lambda c: c | {"model_type": "roberta"}),
    "activation": ("config_json", lambda c: c | {"hidden_act": "relu"}),
    "pooling": ("1_Pooling__config_json", lambda c: c | {"pooling_mode_cls_token": True}),
    "a dense layer": (
        "modules_json",
        lambda m: [*m[:2], {"type": "sentence_transformers.models.Dense"}, m[2]],
    ),
    "no unit vectors": ("modules_json", lambda m: m[:2]),
    "prompts": (
        "config_sentence_transformers_json",
        lambda c: c | {"prompts": {"query": "query: ", "document": ""}},
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_built_otherwise_is_not(folder: Path, tmp_path: Path, name: str) -> None:
    file, change = DIFFERENT[name]
    assert recognise(copied(folder, tmp_path / "other", **{file: change})) is None


def test_a_folder_without_the_files_is_not(tmp_path: Path) -> None:
    assert recognise(tmp_path) is None


def test_weights_of_another_shape_are_not_built(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "o", config_json=lambda c: c | {"num_hidden_layers": 7})
    bert = recognise(other)
    assert bert is not None
    with pytest.raises(KeyError):
        build(bert)


def test_both_paths_are_the_same_model(folder: Path, quantised: Int8Embedding) -> None:
    general = load_in_torch(folder, "embedded")
    one, other = quantised.embed(TEXTS, "document"), general.embed(TEXTS, "document")
    cosines = np.sum(one * other, axis=1)
    worded = [bool(words(text)) for text in TEXTS]
    # What 8 bits cost; most where there is nothing to read but [CLS] and [SEP].
    assert cosines[worded].min() > 0.99
    assert cosines.min() > 0.95
    assert same_model(probe(quantised), probe(general))
    assert quantised.max_tokens == general.max_tokens == 254


def test_a_vector_does_not_depend_on_its_company(quantised: Int8Embedding) -> None:
    together = quantised.embed(TEXTS * 3, "document")
    alone = np.concatenate([quantised.embed([text], "query") for text in TEXTS])
    assert np.array_equal(together, np.tile(alone, (3, 1)))


def test_what_is_past_the_limit_is_not_read(quantised: Int8Embedding) -> None:
    base = "word " * 300
    one, other = quantised.embed([base, nfc(base + "another end")], "document")
    assert np.array_equal(one, other)


class Held:
    """A session whose first run waits, and that notes how long the texts were."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.go = threading.Event()
        self.began = threading.Event()

    def run(self, _outputs: None, inputs: dict[str, Any]) -> list[Any]:
        self.lengths.append(inputs["ids"].shape[1])
        self.began.set()
        assert self.go.wait(10)
        return [np.zeros((1, 384), dtype=np.float32)]


def test_a_query_is_served_before_documents_that_wait(folder: Path) -> None:
    bert = recognise(folder)
    assert bert is not None
    encoder = Int8Embedding(bert, "embedded")
    session, turns = Held(), Turns()
    encoder._session, encoder._turns = cast(Any, session), turns
    documents = threading.Thread(target=encoder.embed, args=(["one two three"] * 5, "document"))
    documents.start()
    assert session.began.wait(10)
    query = threading.Thread(target=encoder.embed, args=(["q"], "query"))
    query.start()
    while turns.waiting[0] < 1:
        threading.Event().wait(0.001)
    session.go.set()
    for thread in (documents, query):
        thread.join(10)
    assert session.lengths.index(3) == 1  # [CLS] q [SEP], right after the one under way
