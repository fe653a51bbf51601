"""Chunking: how often the gold answer lies whole in what a search returns first.

    python -m bench.chunking --data DATA [--languages en,vi] [--ways ours,recursive] [--limit 100]

The paragraphs of each XQuAD article, joined by blank lines, are one long document. Everything goes
through the backend's own write path and is found by the same encoder, index and fusion; only the
way in which documents are cut differs:

- ours: the backend's chunks, and results as `/search` returns them (a chunk with its neighbours);
- ours, bare: the same chunks alone;
- fixed 800/400: windows of 800 tokens with 400 overlap, OpenAI's default (the encoder reads the
  first 256 of each; BM25 reads all);
- recursive: LangChain's RecursiveCharacterTextSplitter at our chunks' size, without overlap and
  with a fifth, in the peers' environment (`bench/peers/.venv`, made when it is absent).

Tokens are the encoder's throughout. An answer counts where its own place in the document lies
whole in one result, not where the same words stand elsewhere.

Every article must be in the store before anything is asked: it waits for that as long as it takes,
and ends with the names and reasons of those that failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.environments import python_of
from bench.retrieval import _once, _only, _until, opened
from ingest.document import Chunk
from ingest.errors import UnreadableFile
from rag_backend.knowledge.fusion import CANDIDATES
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store, StoreFile
from rag_backend.knowledge.passages import Hit
from rag_backend.knowledge.reader import token_counter
from rag_backend.knowledge.spooling import Held

RESULTS = 5
BUDGETS = (500, 1000, 2000, 4000)
RANKINGS = ("dense", "BM25", "ours")
PEERS = Path(__file__).parent / "peers"
_UNSEEN = re.compile(r"[\s\u200b\ufeff]+")
Cut = Callable[[str], list[tuple[int, int]]]
"""A document's text → the character spans of its chunks."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and where the answer stands in its article, white space left out."""

    text: str
    article: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Way:
    """A way to cut documents; `cut` None is the backend's own."""

    name: str
    cut: Cut | None = None
    bare: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """Something returned for a question: its article, its span there, and what it costs."""

    article: str
    start: int
    end: int
    tokens: int

    def holds(self, question: Question) -> bool:
        """Whether the whole answer lies in it."""
        same = self.article == question.article
        return same and self.start <= question.start and question.end <= self.end


# Data


def load(path: Path) -> tuple[dict[str, str], list[Question]]:
    """({article: text}, questions) of one language's XQuAD."""
    articles: dict[str, str] = {}
    questions: list[Question] = []
    for number, article in enumerate(json.loads(path.read_text("utf-8"))["data"]):
        name, parts = f"a{number:02}", []
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            before = len(_solid("".join(parts)))
            for qa in paragraph["qas"]:
                answer = qa["answers"][0]
                start = before + len(_solid(context[: answer["answer_start"]]))
                end = start + len(_solid(answer["text"]))
                questions.append(Question(qa["question"], name, start, end))
            parts.append(context)
        articles[name] = "\n\n".join(parts)
    return articles, questions


def _solid(text: str) -> str:
    """What can be seen: its positions survive a change of line breaks, and what a reader drops."""
    return _UNSEEN.sub("", text)


# Ways to cut


def fixed(count: Callable[[str], int], size: int, overlap: int) -> Cut:
    """Windows of whole words, each as near to `size` tokens as they come."""

    def cut(text: str) -> list[tuple[int, int]]:
        ends = [(found.start(), found.end()) for found in re.finditer(r"\S+", text)]
        costs = [count(text[start:end]) for start, end in ends]
        spans, first = [], 0
        while True:
            last, total = first, 0
            while last < len(ends) and (total + costs[last] <= size or last == first):
                total += costs[last]
                last += 1
            spans.append((ends[first][0], ends[last - 1][1]))
            if last == len(ends):
                return spans
            kept, first = 0, last
            while first > 0 and kept + costs[first - 1] <= overlap:
                first -= 1
                kept += costs[first]

    return cut


def recursive(tokenizer: Path, size: int, overlap: int) -> Cut:
    """LangChain's splitter, in its own environment; SystemExit where that does not work."""
    # Here and not in `cut`, which runs in several threads: two of them would make it at once.
    command = [str(python_of()), str(PEERS / "recursive_splitter.py")]

    def cut(text: str) -> list[tuple[int, int]]:
        asked = {"text": text, "tokenizer": str(tokenizer), "size": size, "overlap": overlap}
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise UnreadableFile(f"{command[0]}: {lines[-1] if lines else done.returncode}")
        return [(start, end) for start, end in json.loads(done.stdout)]

    try:
        cut("One sentence. Another one.")
    except UnreadableFile as error:
        raise SystemExit(f"The recursive splitter does not work: {error}") from error
    return cut


class CutReading:
    """Stands in for the reading processes: cuts a text file in the given way."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut

    async def read(self, path: Path, *_: Any) -> Held:
        """See ReadingPool."""
        return Held(await asyncio.to_thread(self._chunks, path))

    def _chunks(self, path: Path) -> list[Chunk]:
        text = path.read_text("utf-8")
        return [Chunk(text[start:end], start, end) for start, end in self._cut(text)]

    def close(self) -> None:
        """Nothing is open."""


# The backend's paths


async def ingest(library: Library, articles: Mapping[str, str], way: Way) -> Store:
    """Every article through the write path, cut in this way."""
    if way.cut is not None:
        library.indexer._intake._reading = CutReading(way.cut)  # type: ignore[assignment]
    store = await library.store("default")
    for name, text in articles.items():
        file = await library.upload(f"{name}.txt", "user_data", _once(text.encode()))
        await library.attach(store, file.id, {"path": name})
    await _until(lambda: library.indexer.pending == 0)
    listed = await asyncio.to_thread(library.catalog.list_store_files, store.id)
    _check_whole(articles, listed)
    await _until(lambda: library.indexer.calibrator.idle)
    return await library.store("default")


def _check_whole(articles: Mapping[str, str], listed: Sequence[StoreFile]) -> None:
    """SystemExit, with names and reasons, unless every article is in the store."""
    found = {str(file.attributes["path"]): file for file in listed}
    missing = []
    for name in articles:
        file = found.get(name)
        if file is None or file.status != "completed":
            state = f"{file.status}: {file.error_message}" if file else "not in the store"
            missing.append(f"  {name}: {state}")
    if missing:
        head = f"{len(missing)} of {len(articles)} articles are missing, so nothing is measured:"
        raise SystemExit("\n".join([head, *missing]))


async def hits(library: Library, store: Store, query: str, ranking: str) -> list[Hit]:
    """The best chunks by one of the rankings."""
    if ranking == "ours":
        return await library.search(store, query, CANDIDATES)
    retriever = library.retriever
    asked = await asyncio.to_thread(retriever._asked, store.id, query, None)
    if ranking == "dense":
        encoder = await retriever._encoders.for_search(asked.store)
        listed = await retriever._dense(encoder, asked) or []
    else:
        words, _ = await asyncio.to_thread(retriever._words, asked)
        listed = words or []
    ids = [item for item, _ in listed]
    found = await asyncio.to_thread(library.catalog.visible_chunks, store.id, ids)
    return [Hit(found[item], 1.0, 1.0) for item in ids]


class Places:
    """Where chunks stand in their articles, white space left out."""

    def __init__(self, articles: Mapping[str, str], count: Callable[[str], int]) -> None:
        self._solid = {name: _solid(text) for name, text in articles.items()}
        self._count = count

    def result(self, article: str, text: str) -> Result:
        """A returned text as a span of its article."""
        solid = _solid(text)
        start = self._solid[article].index(solid)
        return Result(article, start, start + len(solid), self._count(text))


async def measure(
    library: Library, store: Store, way: Way, questions: Sequence[Question], places: Places
) -> dict[str, list[float]]:
    """{ranking: [share in the first RESULTS, mean tokens of these, share in each budget …]}."""
    sums = {ranking: [0.0] * (2 + len(BUDGETS)) for ranking in RANKINGS}
    for question in questions:
        for ranking in RANKINGS:
            found = await hits(library, store, question.text, ranking)
            if way.bare:
                shown = [(hit.chunk, hit.chunk.text) for hit in found[:50]]
            else:
                passages = await library.passages(store, found, 50)
                shown = [(passage.best, passage.text) for passage in passages]
            results = [places.result(str(c.attributes["path"]), text) for c, text in shown]
            first = results[:RESULTS]
            got = [any(one.holds(question) for one in first), sum(one.tokens for one in first)]
            got += [_within(results, question, budget) for budget in BUDGETS]
            sums[ranking] = [a + b for a, b in zip(sums[ranking], got, strict=True)]
    return {ranking: [x / len(questions) for x in row] for ranking, row in sums.items()}


def _within(results: Sequence[Result], question: Question, budget: int) -> bool:
    """Whether a whole result that holds the answer ends within so many tokens."""
    for one in results:
        budget -= one.tokens
        if budget < 0:
            return False
        if one.holds(question):
            return True
    return False


# Report


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under a rule."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-+-".join("-" * w for w in widths), *lines[1:]])


async def run(data: Path, language: str, limit: int, chosen: Sequence[str]) -> str:
    """Every way to cut whose name begins as one of those that were chosen, one language."""
    articles, questions = load(_only(data / "xquad", language))
    asked = questions[:limit] if limit else questions
    head = ["XQuAD " + language, "chunks", "tokens each", "ranking", f"in top {RESULTS}"]
    head += [f"tokens of top {RESULTS}", *(f"in {budget} tokens" for budget in BUDGETS)]
    rows = [head]
    ways = [Way("ours", bare=False), Way("ours, bare"), *(Way(name) for name in _PEERS)]
    for way in [way for way in ways if way.name.startswith(tuple(chosen))]:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            async with opened(Path(folder)) as library:
                embedding = (await library.retriever._encoders.present.wait()).embedding
                count = token_counter(embedding.tokenizer_file)
                if way.name in _PEERS:
                    way = Way(way.name, _PEERS[way.name](embedding, count))
                store = await ingest(library, articles, way)
                places = Places(articles, count)
                found = await measure(library, store, way, asked, places)
                sizes = await _sizes(library, store, count)
        for ranking, (top, tokens, *budgets) in found.items():
            cells = [way.name, str(len(sizes)), f"{sum(sizes) / len(sizes):.0f}", ranking]
            rows.append([*cells, f"{top:.4f}", f"{tokens:.0f}", *(f"{b:.3f}" for b in budgets)])
            print("  ".join(rows[-1]), flush=True)
    return table(rows)


_PEERS: dict[str, Callable[[Any, Callable[[str], int]], Cut]] = {
    "fixed 800/400": lambda _, count: fixed(count, 800, 400),
    "recursive": lambda e, _: recursive(e.tokenizer_file, e.max_tokens, 0),
    "recursive, overlap": lambda e, _: recursive(e.tokenizer_file, e.max_tokens, e.max_tokens // 5),
}
"""How each peer cuts, once the encoder is known."""


async def _sizes(library: Library, store: Store, count: Callable[[str], int]) -> list[int]:
    listed = await asyncio.to_thread(library.catalog.list_store_files, store.id, "completed")
    chunks = [c for f in listed for c in library.catalog.file_chunks(store.id, f.file_id)]
    return [count(chunk.text) for chunk in chunks]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with xquad/")
    parser.add_argument("--languages", default="en,vi")
    parser.add_argument("--limit", type=int, default=0, help="questions a language; all by default")
    parser.add_argument("--ways", default="", help="names, or their beginnings; all by default")
    given = parser.parse_args()
    chosen = given.ways.split(",")
    for language in given.languages.split(","):
        print(asyncio.run(run(given.data, language, given.limit, chosen)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
