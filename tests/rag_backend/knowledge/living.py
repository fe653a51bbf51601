"""`python -m tests.rag_backend.knowledge.living DIRECTORY`: backends that are killed, one by one.

Everything is imported once; each life is a fork, which costs nothing. Lines on stdin say what the
next life is: `live SEED` works until it is killed, `settle` finishes what is unfinished, compares
everything with the journal and exits with 0. The answer on stdout is the life's process id.

The journal has a line for each thing that is about to be done and a line once it was acknowledged,
as a client would know it; and complaints of a searcher, who looks all the time whether a document
vanishes, goes back to an earlier version or shows two at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rag_backend.errors import RAGError
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store
from tests.rag_backend.knowledge.building import (
    DirectReading,
    assert_agreement,
    opened_library,
    put,
    settled,
)
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding

NAMES = [f"doc{number}" for number in range(12)]
LONG = "doc0"
"""Has more chunks than are embedded together, or kept in memory."""
GONE = -1


class Journal:
    """What was done, in a file that survives the writer."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, **entry: Any) -> None:
        """One line, at once."""
        self._file.write(json.dumps(entry).encode() + b"\n")


def possible(lines: Iterable[str]) -> dict[str, set[int]]:
    """{document: versions that it may have now}; GONE: it may be absent.

    The last one that was acknowledged, or any that was about to be made after that.
    """
    found: dict[str, set[int]] = {name: {GONE} for name in NAMES}
    for line in lines:
        entry = json.loads(line)
        if "doing" in entry:
            found[entry["doing"]].add(entry["version"])
        elif "done" in entry:
            found[entry["done"]] = {entry["version"]}
    return found


def document(name: str, version: int) -> bytes:
    """Several chunks, each of which says which document and version it is of."""
    parts = 700 if name == LONG else 1 + version % 4
    mark = f"{name} version{version}"
    return "\n\n".join(f"## Part {n} of {mark}\n\nOf {mark}." for n in range(parts)).encode()


def mark_of(text: str) -> tuple[str, int]:
    """The document and version that a chunk says it is of."""
    words = text.removesuffix(".").split()
    return words[-2], int(words[-1].removeprefix("version"))


async def work(library: Library, journal: Journal, seed: int) -> None:
    """Put, replace, delete, rebuild, at random, for ever."""
    moves = random.Random(seed)
    store = await library.store("default")
    version = seed * 1000
    while True:
        version += 1
        name = moves.choice(NAMES[1:] if moves.random() < 0.9 else NAMES)
        action = moves.choices(("put", "delete", "detach", "rebuild", "store"), (12, 2, 1, 1, 1))[0]
        if action == "put":
            journal.write(doing=name, version=version)
            await put(library, store, f"{name}.md", document(name, version), path=name)
            journal.write(done=name, version=version)
        elif action in ("delete", "detach"):
            journal.write(doing=name, version=GONE)
            await remove(library, store, name, action)
            journal.write(done=name, version=GONE)
        elif action == "rebuild":
            await library.indexer.rebuild(store)
        else:
            await other_store(library, version)
        await asyncio.sleep(moves.choice((0, 0, 0.01, 0.05)))


async def remove(library: Library, store: Store, name: str, action: str) -> None:
    """Every version of the document, whatever its state."""
    listed = await asyncio.to_thread(library.catalog.list_store_files, store.id)
    # Oldest first: if it dies in between, what is left is what was there last.
    for file in sorted(listed, key=lambda file: file.sequence):
        if file.identity == name:
            try:
                if action == "delete":
                    await library.delete_file(file.file_id)
                else:
                    await library.detach(store, file.file_id)
            except RAGError:  # a later version came first
                continue


async def other_store(library: Library, version: int) -> None:
    """A store that is made, filled and deleted."""
    other = await asyncio.to_thread(library.catalog.create_store, f"other{version}", {})
    await put(library, other, "a.md", document("doc1", version))
    await asyncio.sleep(0.05)
    await library.delete_store(other)


async def look(library: Library, journal: Journal, lines: list[str]) -> None:
    """Search for what nobody touches: it is there, whole, and never goes back."""
    store = await library.store("default")
    seen: dict[str, tuple[int, int]] = {}  # name: version, how often it had been deleted
    moves = random.Random(len(lines))
    while True:
        name = moves.choice(NAMES)
        deleted = deletions(journal, name)
        hits = await library.search(store, name, 20, {"type": "eq", "key": "path", "value": name})
        marks = {mark_of(hit.chunk.text) for hit in hits}
        last, then = seen.get(name, (0, deleted))
        if then != deletions(journal, name):
            seen.pop(name, None)
        elif len(marks) > 1 or any(found != name for found, _ in marks):
            journal.write(complaint=f"{name}: {sorted(marks)} at once")
        elif last and not marks:
            journal.write(complaint=f"{name} has vanished, was {last}")
        elif marks:
            version = marks.pop()[1]
            if version < last:
                journal.write(complaint=f"{name} went back to {version}, was {last}")
            seen[name] = version, deleted
        await asyncio.sleep(0)


def deletions(journal: Journal, name: str) -> int:
    """How often somebody has set out to delete the document."""
    wanted = json.dumps({"doing": name, "version": GONE})
    return sum(line == wanted for line in journal_lines(journal))


def journal_lines(journal: Journal) -> list[str]:
    """Every line so far."""
    return Path(journal._file.name).read_text().splitlines()


async def live(directory: Path, journal: Journal, seed: int) -> None:
    """Until it is killed."""
    spool = DirectReading(directory / "reading")
    async with opened_library(directory, FakeEmbedding(), spool) as library:
        await asyncio.gather(
            work(library, journal, seed), look(library, journal, journal_lines(journal))
        )


async def settle(directory: Path, journal: Journal) -> None:
    """Finish, and compare: one completed version of each document, one that was asked for."""
    spool = DirectReading(directory / "reading")
    async with opened_library(directory, FakeEmbedding(), spool) as library:
        store = await library.store("default")
        await settled(library, store)
        assert_agreement(library)
        found: dict[str, int] = {}
        for file in library.catalog.list_store_files(store.id):
            assert file.status == "completed", file
            chunks = library.catalog.file_chunks(store.id, file.file_id)
            marks = {mark_of(chunk.text) for chunk in chunks}
            assert len(marks) == 1, marks
            name, version = marks.pop()
            assert name not in found, "two versions"
            found[name] = version
            read = b"".join(document(name, version).split(b"\n\n")[1::2])
            assert "".join(chunk.text for chunk in chunks).encode() == read, "not whole"
        for name, versions in possible(journal_lines(journal)).items():
            assert found.get(name, GONE) in versions, f"{name} {found.get(name)} not in {versions}"


def main(directory: Path) -> None:
    """Fork a life for every line."""
    path = directory.parent / "journal"
    for line in iter(sys.stdin.readline, ""):
        action, *arguments = line.split()
        if process := os.fork():
            print(process, flush=True)
            print(os.waitpid(process, 0)[1], flush=True)
            continue
        try:
            journal = Journal(path)
            if action == "live":
                asyncio.run(live(directory, journal, int(arguments[0])))
            else:
                asyncio.run(settle(directory, journal))
        except BaseException:  # noqa: BLE001 - whatever ends a life is shown, and fails the test
            traceback.print_exc()
            os._exit(1)
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
