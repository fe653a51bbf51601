"""Search quality: our read path beside its two parts and beside reciprocal rank fusion.

    python bench/retrieval.py --data DATA [--sets xquad-vi,scifact] [--limit 100] [--keep FOLDER]

Each paragraph or abstract is one file, taken in through the backend's own write path (upload,
attach, read in a worker process, chunk, embed, index), in this process instead of over HTTP,
because the parts of the fusion are not visible over HTTP; each question goes through the
read path (`Library.search`). A document ranks where its best chunk ranks. Nothing is kept between
runs unless `--keep` names a folder, whose indexes are then used again as they are.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import json
import math
import tempfile
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rag_backend.app import build_parts
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store
from rag_backend.settings import Settings
from rag_backend.text import fold

SHOWN = 50
"""Chunks asked of the read path: as many as the API gives at most."""
METHODS = ("dense", "BM25", "RRF(60)", "ours")
Qrels = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Files by document id: (file name, text)."""

    name: str
    documents: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Task:
    """Questions to one corpus, each with the gain of each document; what there is to beat."""

    name: str
    corpus: str
    questions: Sequence[tuple[str, Qrels]]
    target: str


# Data


def load_xquad(path: Path, language: str) -> tuple[Corpus, list[tuple[str, Qrels]]]:
    """XQuAD in SQuAD's JSON: a paragraph is a document, its questions' only answer."""
    documents: dict[str, tuple[str, str]] = {}
    questions: list[tuple[str, Qrels]] = []
    raw = json.loads(path.read_text("utf-8"))
    for article in raw["data"]:
        for paragraph in article["paragraphs"]:
            key = f"p{len(documents)}"
            documents[key] = (f"{key}.txt", paragraph["context"])
            questions += [(qa["question"], {key: 1.0}) for qa in paragraph["qas"]]
    return Corpus(f"xquad-{language}", documents), questions


def load_scifact(folder: Path) -> tuple[Corpus, list[tuple[str, Qrels]]]:
    """SciFact in BEIR's shape: an abstract is a Markdown file under its title."""
    documents: dict[str, tuple[str, str]] = {}
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            documents[row["_id"]] = (f"{row['_id']}.md", f"# {row['title']}\n\n{row['text']}\n")
    gains: dict[str, dict[str, float]] = {}
    with (folder / "qrels.test.tsv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows, delimiter="\t"):
            gains.setdefault(row["query-id"], {})[row["corpus-id"]] = float(row["score"])
    queries = map(json.loads, (folder / "queries.test.jsonl").read_text("utf-8").splitlines())
    questions = [(q["text"], gains[q["_id"]]) for q in queries if q["_id"] in gains]
    return Corpus("scifact", documents), questions


def load(data: Path) -> tuple[dict[str, Corpus], list[Task]]:
    """Every corpus and every task, small ones first."""
    english, asked = load_xquad(_only(data / "xquad", "en"), "en")
    vietnamese, hoi = load_xquad(_only(data / "xquad", "vi"), "vi")
    scifact, claims = load_scifact(data / "scifact")

    def typed(change: Callable[[str], str]) -> list[tuple[str, Qrels]]:
        return [(change(question), gains) for question, gains in hoi]

    tasks = [
        Task("xquad-en", "xquad-en", asked, ".975 (.943 / .966 / .971)"),
        Task("xquad-vi", "xquad-vi", hoi, ".962 (.511 / .963 / .749)"),
        Task("xquad-vi bare", "xquad-vi", typed(fold), ".930"),
        Task("xquad-vi NFD", "xquad-vi", typed(_nfd), "as NFC"),
        Task("xquad-vi→en", "xquad-en", hoi, ".452 (.194 / .452 / .360)"),
        Task("scifact", "scifact", claims, ".720 (.645 / .687 / .711)"),
    ]
    return {corpus.name: corpus for corpus in (english, vietnamese, scifact)}, tasks


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _only(folder: Path, language: str) -> Path:
    return next(iter(sorted(folder.glob(f"*{language}.json"))))


# The backend's paths


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Library]:
    """A whole backend's library over `folder`, without its HTTP server."""
    parts = build_parts(Settings(_env_file=None, data_dir=folder))
    parts.encoder.start()
    await parts.library.start()
    try:
        yield parts.library
    finally:
        await parts.encoder.stop()
        await parts.library.stop()
        await parts.registry.aclose()


async def ingest(library: Library, corpus: Corpus) -> Store:
    """Every document through the write path; returns when the store has learnt its weights."""
    store = await asyncio.to_thread(library.catalog.create_store, corpus.name, {})
    for key, (filename, text) in corpus.documents.items():
        file = await library.upload(filename, "user_data", _once(text.encode()))
        await library.attach(store, file.id, {"path": filename, "key": key})
    await _until(lambda: library.indexer.pending == 0)
    listed = await asyncio.to_thread(library.catalog.list_store_files, store.id)
    failed = [file.error_message for file in listed if file.status != "completed"]
    if failed:
        raise SystemExit(f"{len(failed)} documents of {corpus.name} failed: {failed[0]}")
    return store


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  (a measurement may wait by looking)
        await asyncio.sleep(0.2)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def rankings(library: Library, store: Store, query: str) -> dict[str, list[str]]:
    """Chunk ids, best first, by method."""
    retriever = library.retriever
    asked = await asyncio.to_thread(retriever._asked, store.id, query, None)
    encoder = await retriever._encoders.for_search(asked.store)
    dense = await retriever._dense(encoder, asked) or []
    words, _ = await asyncio.to_thread(retriever._words, asked)
    lexical = words or []
    hits = await library.search(store, query, SHOWN)
    parts = [[item for item, _ in ranking] for ranking in (dense, lexical)]
    ours = [hit.chunk.id for hit in hits]
    return dict(zip(METHODS, [*parts, reciprocal(parts), ours], strict=True))


def reciprocal(parts: Iterable[Sequence[str]], k: int = 60) -> list[str]:
    """Reciprocal rank fusion, as every peer does it."""
    scores: dict[str, float] = {}
    for ranking in parts:
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (k + rank)
    return sorted(scores, key=lambda item: (-scores[item], item))


# Measures


def ndcg(ranked: Sequence[str], gains: Qrels, k: int = 10) -> float:
    """nDCG@k with linear gains, as trec_eval has it."""
    got = sum(gains.get(item, 0.0) / math.log2(n + 2) for n, item in enumerate(ranked[:k]))
    best = sorted(gains.values(), reverse=True)[:k]
    return got / sum(gain / math.log2(n + 2) for n, gain in enumerate(best))


def recall(ranked: Sequence[str], gains: Qrels, k: int = 10) -> float:
    """Share of the relevant documents among the first k."""
    wanted = {item for item, gain in gains.items() if gain > 0}
    return len(wanted & set(ranked[:k])) / len(wanted)


async def measure(library: Library, store: Store, task: Task, limit: int) -> dict[str, list[float]]:
    """{method: [nDCG@10, recall@10]}."""
    listed = await asyncio.to_thread(library.catalog.list_store_files, store.id)
    keys = {file.file_id: str(file.attributes["key"]) for file in listed}
    sums = {method: [0.0, 0.0] for method in METHODS}
    asked = task.questions[:limit] if limit else task.questions
    for query, gains in asked:
        for method, chunk_ids in (await rankings(library, store, query)).items():
            owners = (keys[item.rpartition(":")[0]] for item in chunk_ids)
            ranked = list(dict.fromkeys(owners))
            sums[method][0] += ndcg(ranked, gains)
            sums[method][1] += recall(ranked, gains)
    return {method: [total / len(asked) for total in pair] for method, pair in sums.items()}


# Report


def table(results: Mapping[str, Mapping[str, Sequence[float]]], tasks: Sequence[Task]) -> str:
    """nDCG@10 / recall@10 of every task and method, with what there is to beat."""
    head = ["nDCG@10 / recall@10", *METHODS, "to reach (reference: dense / BM25 / RRF)"]
    rows = [head]
    for task in tasks:
        if task.name in results:
            cells = [f"{a:.4f} / {b:.3f}" for a, b in (results[task.name][m] for m in METHODS)]
            rows.append([task.name, *cells, task.target])
    widths = [max(len(row[n]) for row in rows) for n in range(len(head))]
    lines = [" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-+-".join("-" * w for w in widths), *lines[1:]])


async def run(data: Path, wanted: Sequence[str], limit: int, folder: Path) -> str:
    """Ingest what is needed, ask everything, return the table."""
    corpora, tasks = load(data)
    chosen = [t for t in tasks if not wanted or t.name in wanted or t.corpus in wanted]
    results: dict[str, Mapping[str, Sequence[float]]] = {}
    async with opened(folder) as library:
        for name in dict.fromkeys(task.corpus for task in chosen):
            known = {store.name: store for store in library.catalog.list_stores()}
            began = time.monotonic()
            store = known.get(name) or await ingest(library, corpora[name])
            await _until(lambda: library.indexer.calibrator.idle)
            store = await library.store(name)
            chunks = library.catalog.count_chunks(store.id)
            print(f"{name}: {chunks} chunks, {time.monotonic() - began:.0f} s", flush=True)
            print(f"  learnt {dict(library.catalog.fusion(store).dense_weight)}", flush=True)
            for task in chosen:
                if task.corpus == name:
                    results[task.name] = await measure(library, store, task, limit)
                    print(table(results, [task]).splitlines()[-1], flush=True)
    return table(results, chosen)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with xquad/ and scifact/")
    parser.add_argument("--sets", default="", help="tasks or corpora, by commas; all by default")
    parser.add_argument("--limit", type=int, default=0, help="questions a task; all by default")
    parser.add_argument("--keep", type=Path, help="index here, or use what is indexed here")
    given = parser.parse_args()
    wanted = [name for name in given.sets.split(",") if name]
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        print(asyncio.run(run(given.data, wanted, given.limit, given.keep or Path(temporary))))


if __name__ == "__main__":
    main()
