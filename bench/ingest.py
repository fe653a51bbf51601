"""Speed of ingestion: ours through the HTTP API, beside the bare encoder, LangChain and LlamaIndex.

    python bench/ingest.py [--data DATA] [--chunks 1200] [--rounds 1] [--only ours,bare]

Everybody gets the very chunks that our backend makes of the same plain text files; ours is a real
backend process to which the files are uploaded and attached, and the clock runs until the last one
is completed. Start-up and loading of the model are left out for all. The peers run in an
environment of their own, bench/peers/.venv, which is made here when it is absent. Without --data
(a folder with xquad/ and scifact/) the texts are paragraphs of this repository's own documents.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
if Path(sys.path[0]).resolve() == ROOT / "bench":
    sys.path[0] = str(ROOT)  # run as a file: this one is called as our package is

from bench.environments import python_of  # noqa: E402
from bench.retrieval import load  # noqa: E402
from ingest.document import with_headings  # noqa: E402
from rag_backend.knowledge.embedding import load_embedding  # noqa: E402
from rag_backend.knowledge.reader import read_and_chunk  # noqa: E402

PEERS = ROOT / "bench" / "peers"
PATIENCE = 1800
_FILE_CHARACTERS = 12_000
_BATCH_VERSIONS = ("chromadb", "torch", "sentence-transformers", "tantivy")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: seconds for all chunks, and {library: version}."""

    seconds: float
    versions: Mapping[str, str]


Contender = Callable[[Path], Outcome]


# Texts


def paragraphs(data: Path | None) -> list[str]:
    """Paragraphs in a fixed random order: of the sets in `data`, or of our own documents."""
    if data is not None:
        corpora, _ = load(data)
        found = [text for name in corpora for _, text in corpora[name].documents.values()]
    else:
        written = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "LICENSE"]
        blocks = (
            b for path in sorted(written) for b in re.split(r"\n\s*\n", path.read_text("utf-8"))
        )
        found = [" ".join(block.split()) for block in blocks if len(block) > 80]
    random.Random(7).shuffle(found)
    return [text.lstrip("# ") for text in found]


def write_files(texts: Sequence[str], folder: Path, most_chunks: int) -> list[str]:
    """Plain text files of some pages each, until they give enough chunks; the chunks' texts."""
    encoder = load_embedding("embedded")
    chunks: list[str] = []
    number = at = 0
    while len(chunks) < most_chunks:
        page: list[str] = [f"Document {number}"]
        while sum(map(len, page)) < _FILE_CHARACTERS:
            # Went through once: begin again, with sentences that differ.
            page.append(texts[at % len(texts)] + (f" ({at})" if at >= len(texts) else ""))
            at += 1
        path = folder / f"{number:05}.txt"
        path.write_text("\n\n".join(page), "utf-8")
        made = read_and_chunk(path, path.name, encoder.tokenizer_file, encoder.max_tokens)
        chunks += [with_headings(chunk.heading_path, chunk.text) for chunk in made]
        number += 1
    return chunks


# Contenders


def script(python: Path, name: str, model: Path) -> Contender:
    """A script of bench/peers under an interpreter."""

    def run(folder: Path) -> Outcome:
        done = subprocess.run(
            [str(python), str(PEERS / name), str(model), str(folder / "chunks.json")],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False"},
        )
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        return Outcome(**json.loads(done.stdout.splitlines()[-1]))

    return run


def encoder_alone(folder: Path) -> Outcome:
    """Our `embed()` in this process: what the write path adds is the difference to `ours`."""
    encoder = load_embedding("embedded")
    texts = json.loads((folder / "chunks.json").read_text("utf-8"))
    encoder.embed(texts[:32], "document")
    began = time.perf_counter()
    encoder.embed(texts, "document")
    return Outcome(time.perf_counter() - began, {"torch": version("torch")})


def ours(folder: Path) -> Outcome:
    """Upload, attach, wait until completed."""
    files = sorted((folder / "files").glob("*.txt"))
    with tempfile.TemporaryDirectory() as work, backend(Path(work)) as client:
        ingest(client, "warm-up", [("warm-up.txt", b"The kettle is warm. " * 40)])
        began = time.perf_counter()
        ingest(client, "bench", [(path.name, path.read_bytes()) for path in files])
        seconds = time.perf_counter() - began
        store = client.get("/v1/vector_stores/bench").json()
        if store["file_counts"]["completed"] != len(files):
            raise SystemExit(f"not every file was completed: {store['file_counts']}")
    return Outcome(seconds, {name: version(name) for name in _BATCH_VERSIONS})


def ingest(client: httpx.Client, store: str, files: Sequence[tuple[str, bytes]]) -> None:
    """Put files into a new store; returns when none is in progress."""
    client.post("/v1/vector_stores", json={"name": store}).raise_for_status()

    def put(file: tuple[str, bytes]) -> None:
        sent = client.post("/v1/files", files={"file": file}, data={"purpose": "user_data"})
        sent.raise_for_status()
        attached = {"file_id": sent.json()["id"]}
        client.post(f"/v1/vector_stores/{store}/files", json=attached).raise_for_status()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, files))
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE
    while client.get(f"/v1/vector_stores/{store}").json()["file_counts"]["in_progress"]:
        if time.monotonic() > deadline:
            raise SystemExit(f"the files were not indexed within {PATIENCE} s")
        pause.wait(0.1)


@contextmanager
def backend(folder: Path) -> Iterator[httpx.Client]:
    """A backend process with its data in `folder`, ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "backend.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "rag_backend.main", "--port", str(port)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "DATA_DIR": "data"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            _until_ready(client, process)
            yield client
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _until_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    pause = threading.Event()
    while True:
        if process.poll() is not None:
            raise SystemExit("the backend did not start")
        try:
            if client.get("/health").json()["status"] == "ok":
                return
        except httpx.TransportError:
            pass
        pause.wait(0.1)


# Report


def report(chunks: int, outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """Medians, speeds and ratios."""
    medians = {n: statistics.median(o.seconds for o in runs) for n, runs in outcomes.items()}
    lines = [f"{'':14} {'seconds':>8} {'chunks/s':>9}   versions"]
    for name, seconds in medians.items():
        versions = ", ".join(f"{k} {v}" for k, v in outcomes[name][0].versions.items())
        lines.append(f"{name:14} {seconds:8.1f} {chunks / seconds:9.1f}   {versions}")
    for other, target in (("bare", 0.85), ("LangChain", 2), ("LlamaIndex", 2), ("our encoder", 0)):
        if {"ours", other} <= medians.keys():
            ratio = medians[other] / medians["ours"]
            wanted = f" (target: at least {target})" if target else " (the rest is the write path)"
            lines.append(f"ours / {other}: {ratio:.2f}{wanted}")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with xquad/ and scifact/")
    parser.add_argument("--chunks", type=int, default=1200, help="at least so many chunks")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, interleaved")
    parser.add_argument("--only", default="", help="contenders, by commas; all by default")
    given = parser.parse_args()
    wanted = [name for name in given.only.split(",") if name]
    tokenizer = load_embedding("embedded").tokenizer_file
    if tokenizer is None:
        raise SystemExit("the embedded encoder has no tokenizer.json")
    model = tokenizer.parent
    contenders: dict[str, Contender] = {
        "bare": script(Path(sys.executable), "bare.py", model),
        "our encoder": encoder_alone,
        "ours": ours,
    }
    if not wanted or {"LangChain", "LlamaIndex"} & set(wanted):
        python = python_of()
        contenders["LangChain"] = script(python, "with_langchain.py", model)
        contenders["LlamaIndex"] = script(python, "with_llamaindex.py", model)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        (folder / "files").mkdir()
        chunks = write_files(paragraphs(given.data), folder / "files", given.chunks)
        (folder / "chunks.json").write_text(json.dumps(chunks, ensure_ascii=False), "utf-8")
        outcomes: dict[str, list[Outcome]] = {}
        for _ in range(given.rounds):
            for name, contender in contenders.items():
                if not wanted or name in wanted:
                    outcomes.setdefault(name, []).append(contender(folder))
                    print(f"{name}: {outcomes[name][-1].seconds:.1f} s", flush=True)
    print(f"{len(chunks)} chunks, {os.cpu_count()} cores")
    print(report(len(chunks), outcomes))


if __name__ == "__main__":
    main()
