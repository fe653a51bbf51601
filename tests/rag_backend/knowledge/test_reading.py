"""Worker processes that read files: what they return, and how they fail."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from tokenizers import Tokenizer

from ingest.errors import UnreadableFile
from rag_backend.knowledge import reading
from rag_backend.knowledge.embedding import EmbeddingProvider, SentenceTransformerEmbedding
from rag_backend.knowledge.reading import ReadingPool, read_and_chunk, token_counter
from tests.rag_backend.knowledge import hostile

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReadingPool]:
    """One worker with 256 MiB and a second, that does what the file says."""
    monkeypatch.setattr(reading, "read_and_chunk", hostile.read_and_chunk)
    made = ReadingPool(1, timeout=1, memory_mb=256)
    yield made
    made.close()


@pytest.fixture
def order(tmp_path: Path) -> Path:
    return tmp_path / "order"


async def read(pool: ReadingPool, path: Path, what: str) -> list[str]:
    path.write_text(what)
    return [chunk.text for chunk in await pool.read(path, "a.txt", None, 254)]


def workers() -> list[BaseProcess]:
    """Processes that this one started, the session's own pool's among them."""
    return multiprocessing.active_children()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("hang", "READ_TIMEOUT=1 seconds"),
        ("exit", "made its reader crash"),
        pytest.param(
            "memory",
            "READ_MEMORY_MB=256",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS"),
        ),
    ],
)
async def test_a_bad_file_fails_alone(
    pool: ReadingPool, order: Path, what: str, sentence: str
) -> None:
    with pytest.raises(UnreadableFile, match=sentence):
        await read(pool, order, what)
    assert await read(pool, order, "fine") == ["fine"]


@pytest.mark.parametrize("what", ["raise", "unpicklable"])
async def test_a_defect_is_an_error_and_the_pool_goes_on(
    pool: ReadingPool, order: Path, what: str
) -> None:
    with pytest.raises(Exception) as raised:
        await read(pool, order, what)
    assert isinstance(raised.value, UnreadableFile) == (what == "unpicklable")
    assert await read(pool, order, "fine") == ["fine"]


async def test_a_worker_killed_while_idle_costs_nothing(pool: ReadingPool, order: Path) -> None:
    before = set(workers())
    assert await read(pool, order, "fine") == ["fine"]
    for worker in set(workers()) - before:
        worker.kill()
        await asyncio.to_thread(worker.join)
    assert await read(pool, order, "again") == ["again"]
    assert await read(pool, order, "and again") == ["and again"]


async def test_closing_does_not_wait_for_a_busy_worker(pool: ReadingPool, order: Path) -> None:
    before = set(workers())
    order.write_text("hang")
    stuck = asyncio.create_task(pool.read(order, "a.txt", None, 254))
    async with asyncio.timeout(30):
        while not set(workers()) - before:
            await asyncio.sleep(0.01)
        stuck.cancel()
        await asyncio.to_thread(pool.close)
    assert set(workers()) <= before
    with pytest.raises(asyncio.CancelledError):
        await pool.read(order, "a.txt", None, 254)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_workers_die_with_an_owner_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "order").write_text("hang")
    (tmp_path / "owner.py").write_text(_OWNER)
    owner = subprocess.Popen(
        [sys.executable, str(tmp_path / "owner.py"), str(tmp_path / "order")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)},
        text=True,
    )
    assert owner.stdout is not None
    with owner.stdout:
        busy = psutil.Process(int(owner.stdout.readline()))
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert psutil.wait_procs([busy], timeout=30)[1] == []


_OWNER = """
import asyncio, multiprocessing, sys
from pathlib import Path
from rag_backend.knowledge import reading
from tests.rag_backend.knowledge import hostile

async def main():
    reading.read_and_chunk = hostile.read_and_chunk
    pool = reading.ReadingPool(1, timeout=600, memory_mb=512)
    stuck = asyncio.create_task(pool.read(Path(sys.argv[1]), "a.txt", None, 254))
    while not multiprocessing.active_children():
        await asyncio.sleep(0.01)
    print(multiprocessing.active_children()[0].pid, flush=True)
    await stuck

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_256_mib_read_every_example(embedding: EmbeddingProvider) -> None:
    pool = ReadingPool(1, timeout=60, memory_mb=256)
    count = token_counter(embedding.tokenizer_file)
    try:
        for path in sorted(p for p in EXAMPLES.rglob("*") if p.is_file()):
            chunks = await pool.read(path, path.name, embedding.tokenizer_file, 254)
            assert chunks
            assert all(count(chunk.indexed_text) <= embedding.max_tokens for chunk in chunks)
    finally:
        await asyncio.to_thread(pool.close)


def test_garbage_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 50)
    with pytest.raises(UnreadableFile):
        read_and_chunk(path, "x.pdf", None, 254)


def test_bytes_that_are_gone_are_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="cannot be opened"):
        read_and_chunk(tmp_path / "gone", "x.pdf", None, 254)


def test_words_counted_apart_are_the_text_counted_whole(
    embedding: SentenceTransformerEmbedding,
) -> None:
    """Whatever stands between or in them: marks, controls, other scripts, special tokens."""
    assert embedding.tokenizer_file is not None
    whole = Tokenizer.from_file(str(embedding.tokenizer_file))
    whole.no_truncation()
    whole.no_padding()
    count = token_counter(embedding.tokenizer_file)
    odd = ["\u00a0", "\u2028", "\x1c", "\x00", "\u0301", "\t", "\r\n", "  ", "\u200b", "x" * 150]
    pieces = [
        "don't",
        "[CLS]",
        "Điều 5.",
        "漢字かな",
        "ﬁn",
        "e\u0301",
        "ế",
        "1,000.5",
        "…",
        "😀",
        *odd,
    ]
    made = random.Random(7)
    for _ in range(2000):
        text = "".join(made.choice([*pieces, " ", "\n"]) for _ in range(made.randint(0, 12)))
        assert count(text) == len(whole.encode(text, add_special_tokens=False).ids), repr(text)


def test_without_a_tokenizer_tokens_are_overestimated(
    embedding: EmbeddingProvider,
) -> None:
    guess, count = token_counter(None), token_counter(embedding.tokenizer_file)
    for text in ("Người điều khiển xe máy", "The quick brown fox", "x" * 50):
        assert guess(text) >= count(text)
