"""Speed of search, over HTTP, beside the parts that it cannot do without.

    python -m bench.search [--sizes 1000,10000,100000] [--questions 60] [--keep FOLDER]
                           [--markdown FILE] [--plot FILE.png]

For each size, a store is made (`bench/volume.py` says of what; `--keep` uses it again the next
time) and a real backend process started over it, which answers `POST /v1/vector_stores/ID/search`
without a filter and with filters that let 1 % to 90 % of the files through. Every question
is asked once in each way; the ways take turns, so that whatever else happens on the machine happens
to all of them. Among them, in this process and on a copy of the same data, the limit: the same
question embedded, its vector asked of Chroma, and the question of tantivy, each bare.

Recall is that of the dense search alone (`VectorIndex.search`, 100 nearest, as the backend asks
for them) against a comparison with every allowed vector.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from bench.volume import CHUNKS_A_FILE, FILTERS, fill, make_language, topics_of
from rag_backend.knowledge.chroma import open_embedded
from rag_backend.knowledge.embedding import EMBEDDED, EmbeddingProvider, Vectors, load_embedding
from rag_backend.knowledge.filters import Selection
from rag_backend.knowledge.fusion import CANDIDATES
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.models import SearchableFile, Store
from rag_backend.knowledge.vectors import VectorIndex

CLIENTS = (4, 16)
_WARMING = 6
"""Searches of each kind before it is timed."""
_PAUSE = 0.3
"""Seconds between the two processes' turns: threads of torch's go on spinning after their work, and
would take a core from the other process."""
_STARTED_WITHIN = 180
"""Seconds that a backend may take until it is ready."""


@dataclass
class Measured:
    """What was seen at one size; times in milliseconds."""

    size: int
    times: dict[str, list[float]] = field(default_factory=dict)
    per_second: dict[int, float] = field(default_factory=dict)
    recall: dict[str, tuple[float, float]] = field(default_factory=dict)
    resident: float = 0.0

    def add(self, name: str, milliseconds: float) -> None:
        """One more time."""
        self.times.setdefault(name, []).append(milliseconds)

    def p50(self, name: str) -> float:
        """The median."""
        return statistics.median(self.times[name])

    def p95(self, name: str) -> float:
        """The 95th percentile."""
        return statistics.quantiles(self.times[name], n=20)[18]

    @property
    def limit(self) -> float:
        """The sum of the parts' medians."""
        return sum(self.p50(part) for part in ("embedding", "Chroma", "tantivy"))


# The backend


@contextmanager
def backend(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a backend over the data directory, ready to search, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"DATA_DIR": str(folder.resolve()), "PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "rag_backend.main"],
        env=environment | {"LLM_PROVIDER": "extractive", "LOG_LEVEL": "warning"},
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _STARTED_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        try:
            body = {"query": "ready?"}
            if httpx.post(f"{url}/v1/vector_stores/default/search", json=body).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise SystemExit("The backend did not become ready; its own words are above.")


def ask(client: httpx.Client, store: Store, question: str, wanted: str) -> float:
    """Milliseconds that one search takes; `wanted` names one of FILTERS."""
    body = {"query": question, "filters": FILTERS[wanted].filter}
    began = time.perf_counter()
    answer = client.post(f"/v1/vector_stores/{store.id}/search", json=body)
    took = 1000 * (time.perf_counter() - began)
    if not answer.is_success or not answer.json()["data"]:
        raise SystemExit(f"A search failed: {answer.status_code} {answer.text[:300]}")
    return took


# Measures


def measure(
    folder: Path, store: Store, size: int, embedding: EmbeddingProvider, questions: Sequence[str]
) -> Measured:
    """Everything about one store."""
    found = Measured(size)
    with bare(folder, store, embedding) as parts, backend(folder) as (url, process):
        with httpx.Client(base_url=url, timeout=60) as client:
            ways = {name: _way(client, store, name) for name in FILTERS}
            for way in ways.values():  # the first of its kind also reads files and compiles
                for _ in range(_WARMING):
                    way("what is the first question?")
            for number, question in enumerate(questions):
                # The first after a pause is slower: each way is first as often as the others.
                names = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
                for name in names:
                    found.add(name, ways[name](question))
                time.sleep(_PAUSE)
                for name, milliseconds in parts(question).items():
                    found.add(name, milliseconds)
                time.sleep(_PAUSE)
            for clients in CLIENTS:
                found.per_second[clients] = _together(client, store, questions, clients, found)
        found.resident = process.memory_info().rss / 2**20
    return found


def _way(client: httpx.Client, store: Store, wanted: str) -> Callable[[str], float]:
    return lambda question: ask(client, store, question, wanted)


def _together(
    client: httpx.Client, store: Store, questions: Sequence[str], clients: int, found: Measured
) -> float:
    """Searches a second with so many clients; their times are added to `found`."""
    asked = [*questions, *questions]
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = pool.map(_way(client, store, "no filter"), asked)
        found.times[f"{clients} clients"] = list(times)
    return len(asked) / (time.perf_counter() - began)


@contextmanager
def bare(
    folder: Path, store: Store, embedding: EmbeddingProvider
) -> Iterator[Callable[[str], dict[str, float]]]:
    """What a search cannot do without, timed: {part: milliseconds} of a question.

    The folder belongs to the backend meanwhile, and Chroma is not safe for two processes, so its
    part looks at a copy.
    """
    with tempfile.TemporaryDirectory(prefix="bench-bare-") as copy:
        shutil.copytree(folder / "chroma", Path(copy) / "chroma")
        shutil.copytree(folder / "lexical", Path(copy) / "lexical")
        vectors, lexical = (
            VectorIndex(open_embedded(Path(copy) / "chroma")),
            LexicalIndex(Path(copy, "lexical")),
        )
        collection = vectors._chroma.client.get_collection(
            store.collection, embedding_function=None
        )
        index = lexical._existing(store.collection)
        assert index is not None

        def timed(question: str) -> dict[str, float]:
            moments = [time.perf_counter()]
            vector = embedding.embed([question], "query")
            moments.append(time.perf_counter())
            collection.query(query_embeddings=vector, n_results=CANDIDATES, include=["distances"])
            moments.append(time.perf_counter())
            query = lexical._query(question)
            assert query is not None
            index.searcher().search(query, CANDIDATES, count=False)
            moments.append(time.perf_counter())
            steps = itertools.pairwise(moments)
            names = ("embedding", "Chroma", "tantivy")
            return {n: 1000 * (b - a) for n, (a, b) in zip(names, steps, strict=True)}

        for _ in range(2):
            timed("what is the first question?")
        yield timed
        vectors.close()


# Recall


def recalls(
    folder: Path, store: Store, embedding: EmbeddingProvider, questions: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """{filter: (recall@10, recall@100)} of the dense search."""
    vectors = VectorIndex(open_embedded(folder / "chroma"))
    ids, matrix = _everything(vectors, store)
    numbers = np.array([int(item.rpartition(":")[0].rpartition("-")[2]) for item in ids])
    topics = topics_of(len(ids) // CHUNKS_A_FILE)
    asked = embedding.embed(questions, "query")
    found: dict[str, tuple[float, float]] = {}
    for name, wanted in FILTERS.items():
        allowed = [n for n, topic in enumerate(topics) if wanted.allows(n, int(topic))]
        inside = np.isin(numbers, allowed)
        selection = Selection(
            [SearchableFile(f"file-{n}", "", {}) for n in allowed],
            len(allowed) / len(topics),
            lambda files: dict.fromkeys(files, CHUNKS_A_FILE),
        )
        shares: list[tuple[float, float]] = []
        for vector in asked:
            best = np.argsort(-np.where(inside, matrix @ vector, -2), kind="stable")[:CANDIDATES]
            exact = [ids[n] for n in best[: int(inside.sum())]]
            limited = None if wanted.filter is None else selection
            got = [i for i, _ in vectors.search(store.collection, vector, CANDIDATES, limited)]
            shares.append((_share(got, exact, 10), _share(got, exact, CANDIDATES)))
        found[name] = (
            statistics.mean(share for share, _ in shares),
            statistics.mean(share for _, share in shares),
        )
    vectors.close()
    return found


def _share(got: Sequence[str], exact: Sequence[str], k: int) -> float:
    return len(set(got[:k]) & set(exact[:k])) / max(1, len(exact[:k]))


def _everything(vectors: VectorIndex, store: Store) -> tuple[list[str], Vectors]:
    """Every chunk id and its unit vector."""
    collection = vectors._chroma.client.get_collection(store.collection, embedding_function=None)
    ids: list[str] = []
    parts: list[Any] = []
    for at in range(0, collection.count(), 5000):
        rows = collection.get(limit=5000, offset=at, include=["embeddings"])
        ids += rows["ids"]
        parts.append(np.asarray(rows["embeddings"], dtype=np.float32))
    return ids, np.concatenate(parts)


# Report


def table(results: Sequence[Measured]) -> str:
    """Markdown: a row a measure, a column a size."""
    rows: list[tuple[str, Callable[[Measured], str]]] = [
        (f"{part}, bare", _p50(part)) for part in ("embedding", "Chroma", "tantivy")
    ]
    rows.append(("**limit**: their sum", lambda one: f"{one.limit:.1f}"))
    rows.append(("`/search`, no filter", _both("no filter")))
    rows.append(("— times the limit", lambda one: f"{one.p50('no filter') / one.limit:.2f}"))
    for name in FILTERS:
        if name != "no filter":
            rows.append((f"`/search`, filter {name}", _both(name)))
            rows.append(("— times no filter", _ratio(name)))
    for clients in CLIENTS:
        rows.append((f"{clients} clients at a time", _both(f"{clients} clients")))
    rows.append(("searches a second, 1 client", lambda one: f"{1000 / one.p50('no filter'):.0f}"))
    for clients in CLIENTS:
        rows.append((f"searches a second, {clients} clients", _rate(clients)))
    rows.append(("resident memory, MiB", lambda one: f"{one.resident:.0f}"))
    for name in FILTERS:
        rows.append((f"recall@10 / @100, {name}", _recall(name)))
    head = ["p50 (p95), milliseconds", *(f"{one.size:,} chunks" for one in results)]
    lines = [head, ["---", *("---:" for _ in results)]]
    lines += [[label, *(show(one) for one in results)] for label, show in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


Show = Callable[[Measured], str]


def _p50(name: str) -> Show:
    return lambda one: f"{one.p50(name):.1f}"


def _both(name: str) -> Show:
    return lambda one: f"{one.p50(name):.1f} ({one.p95(name):.1f})"


def _ratio(name: str) -> Show:
    return lambda one: f"{one.p50(name) / one.p50('no filter'):.2f}"


def _rate(clients: int) -> Show:
    return lambda one: f"{one.per_second[clients]:.0f}"


def _recall(name: str) -> Show:
    def shown(one: Measured) -> str:
        return " / ".join(f"{share:.3f}" for share in one.recall[name]) if one.recall else "–"

    return shown


def versions() -> str:
    """What was measured."""
    names = ("chromadb", "tantivy", "torch", "sentence-transformers", "fastapi")
    listed = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return ", ".join([f"Python {sys.version.split()[0]}", *listed, f"{os.cpu_count()} CPUs"])


def plot(results: Sequence[Measured], path: Path) -> None:
    """p50 by size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    sizes = [one.size for one in results]
    axes.plot(sizes, [one.limit for one in results], "k--", label="limit (bare parts)")
    for name in FILTERS:
        label = name if name == "no filter" else f"filter {name}"
        axes.plot(sizes, [one.p50(name) for one in results], marker="o", label=label)
    axes.set(xscale="log", ylim=(0, None), xlabel="chunks", ylabel="p50 of a search, milliseconds")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="1000,10000,100000", help="chunks, by commas")
    parser.add_argument("--questions", type=int, default=60, help="asked in each way")
    parser.add_argument("--keep", type=Path, help="make the stores here, or use those that are")
    parser.add_argument("--markdown", type=Path, help="write the table here too")
    parser.add_argument("--plot", type=Path, help="draw the medians here (needs matplotlib)")
    parser.add_argument("--no-recall", action="store_true", help="do not compare with all vectors")
    given = parser.parse_args()
    embedding = load_embedding(EMBEDDED)
    language, chance = make_language(), np.random.default_rng(5)
    questions = [language.question(chance) for _ in range(given.questions)]
    results: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        for size in map(int, given.sizes.split(",")):
            folder = (given.keep or Path(temporary)) / str(size)
            store = fill(folder, size, embedding)
            results.append(measure(folder, store, size, embedding, questions))
            if not given.no_recall:
                results[-1].recall = recalls(folder, store, embedding, questions)
            print(f"{table(results[-1:])}\n", flush=True)
    report = f"{versions()}; {given.questions} questions.\n\n{table(results)}\n"
    print(report)
    if given.markdown:
        given.markdown.write_text(report, "utf-8")
    if given.plot:
        plot(results, given.plot)


if __name__ == "__main__":
    main()
