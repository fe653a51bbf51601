"""Worker processes that read files: what they return, and how they fail."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from tokenizers import Tokenizer

from ingest.errors import UnreadableFile
from rag_backend.errors import StartError
from rag_backend.knowledge.embedding import EmbeddingProvider, SentenceTransformerEmbedding
from rag_backend.knowledge.reader import read_and_chunk, token_counter
from rag_backend.knowledge.reader_process import (
    CannotStart,
    Died,
    ReaderProcess,
    Stopped,
    TookTooLong,
)
from rag_backend.knowledge.reading import ReadingPool

EXAMPLES = Path(__file__).parents[3] / "examples"


HOSTILE = "tests.rag_backend.knowledge.hostile:read_and_chunk"


@pytest.fixture
def pool() -> Iterator[ReadingPool]:
    """One worker with 256 MiB and a second, that does what the file says."""
    made = ReadingPool(1, timeout=1, memory_mb=256, start=lambda: ReaderProcess(HOSTILE, 256))
    yield made
    made.close()


@pytest.fixture
def order(tmp_path: Path) -> Path:
    return tmp_path / "order"


async def read(pool: ReadingPool, path: Path, what: str) -> list[str]:
    path.write_text(what)
    return [chunk.text for chunk in await pool.read(path, "a.txt", None, 254)]


def workers() -> set[psutil.Process]:
    """Processes that this one started, the session's own pool's among them."""
    return set(psutil.Process().children())


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


async def test_a_defect_is_an_error_and_the_pool_goes_on(pool: ReadingPool, order: Path) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'a defect'"):
        await read(pool, order, "raise")
    assert await read(pool, order, "fine") == ["fine"]


async def test_what_a_parser_prints_is_no_answer(pool: ReadingPool, order: Path) -> None:
    assert await read(pool, order, "print") == ["print"]


async def test_a_worker_killed_while_idle_costs_nothing(pool: ReadingPool, order: Path) -> None:
    before = workers()
    assert await read(pool, order, "fine") == ["fine"]
    for worker in workers() - before:
        worker.kill()
    assert await read(pool, order, "again") == ["again"]
    assert await read(pool, order, "and again") == ["and again"]


async def test_closing_does_not_wait_for_a_busy_worker(pool: ReadingPool, order: Path) -> None:
    before = workers()
    order.write_text("hang")
    stuck = asyncio.create_task(pool.read(order, "a.txt", None, 254))
    async with asyncio.timeout(30):
        while not workers() - before:
            await asyncio.sleep(0.01)
        stuck.cancel()
        await asyncio.to_thread(pool.close)
    assert workers() <= before
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
import asyncio, sys
from pathlib import Path
import psutil
from rag_backend.knowledge.reader_process import ReaderProcess
from rag_backend.knowledge.reading import ReadingPool

def start():
    return ReaderProcess("tests.rag_backend.knowledge.hostile:read_and_chunk", 512)

async def main():
    pool = ReadingPool(1, timeout=600, memory_mb=512, start=start)
    stuck = asyncio.create_task(pool.read(Path(sys.argv[1]), "a.txt", None, 254))
    while not psutil.Process().children():
        await asyncio.sleep(0.01)
    print(psutil.Process().children()[0].pid, flush=True)
    await stuck

if __name__ == "__main__":
    asyncio.run(main())
"""


class FakeWorker:
    """Answers with what it was given, or raises it."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.alive = True
        self.served = 0

    def ask(self, order: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        self.served += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        self.alive = False

    close = kill


GOOD = {"chunks": [["good", 0, 4, None, [], None, None]]}
KILLED, SEGFAULT = Died(-9), Died(-11)


class Starting:
    """Starts what it was given, one after the other; and the pauses that were made in between."""

    def __init__(self, *given: FakeWorker | Exception) -> None:
        self.given = list(given)
        self.problems: list[str | None] = []
        self.pauses: list[float] = []
        self.pool = ReadingPool(1, timeout=7, memory_mb=256, start=self._start, pause=self._pause)

    def _start(self) -> FakeWorker:
        worker = self.given.pop(0)
        if isinstance(worker, Exception):
            raise worker
        return worker

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.problems.append(self.pool.problem)

    async def read(self) -> list[str]:
        return [c.text for c in await self.pool.read(Path("x"), "x.txt", None, 254)]


async def test_workers_that_do_not_start_are_waited_for() -> None:
    starting = Starting(*[CannotStart("Cannot allocate memory")] * 8, FakeWorker(GOOD))
    assert await starting.read() == ["good"]
    assert starting.pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert all("Cannot allocate memory" in str(problem) for problem in starting.problems)
    assert starting.pool.problem is None
    starting.pool.close()


async def test_a_worker_killed_from_outside_is_replaced() -> None:
    starting = Starting(FakeWorker(KILLED), FakeWorker(Stopped()), FakeWorker(GOOD, GOOD))
    assert await starting.read() == ["good"]
    assert await starting.read() == ["good"]
    assert len(starting.pauses) == 2
    starting.pool.close()


async def test_a_file_whose_workers_are_killed_again_and_again_fails() -> None:
    starting = Starting(*(FakeWorker(KILLED) for _ in range(3)), FakeWorker(GOOD))
    with pytest.raises(UnreadableFile, match="from outside 3 times") as raised:
        await starting.read()
    assert raised.value.code == "server_error"
    assert await starting.read() == ["good"]
    starting.pool.close()


@pytest.mark.parametrize(
    ("error", "sentence"), [(SEGFAULT, "made its reader crash"), (TookTooLong(), "READ_TIMEOUT=7")]
)
async def test_what_is_the_files_own_doing_fails_at_once(error: Exception, sentence: str) -> None:
    starting = Starting(FakeWorker(GOOD, error), FakeWorker(GOOD))
    assert await starting.read() == ["good"]
    with pytest.raises(UnreadableFile, match=sentence):
        await starting.read()
    assert await starting.read() == ["good"]
    assert starting.pauses == []
    starting.pool.close()


async def test_a_worker_that_died_while_idle_is_not_asked() -> None:
    first = FakeWorker(GOOD)
    starting = Starting(first, FakeWorker(GOOD))
    assert await starting.read() == ["good"]
    first.alive = False
    assert await starting.read() == ["good"]
    starting.pool.close()


async def test_a_process_that_cannot_begin_says_so() -> None:
    with pytest.raises(CannotStart, match="ended with status 1"):
        await asyncio.to_thread(ReaderProcess, "tests.nowhere:read", 256)


def test_what_an_earlier_process_left_is_removed(tmp_path: Path) -> None:
    spool = tmp_path / "data" / "reading"
    ReadingPool(1, timeout=1, memory_mb=256, spool=spool).close()
    (spool / "read-1").write_bytes(b"half of it")
    before = spool.stat().st_ino
    ReadingPool(1, timeout=1, memory_mb=256, spool=spool).close()
    assert list(spool.iterdir()) == []
    assert spool.stat().st_ino == before, "it may be a mount"


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "reading").write_bytes(b"a file")
    with pytest.raises(StartError, match="reading cannot be used: File exists"):
        ReadingPool(1, timeout=1, memory_mb=256, spool=tmp_path / "reading")


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
