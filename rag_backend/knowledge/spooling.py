"""Chunks on their way from a reader to the stores: short lists in memory, long ones on disk.

So memory does not grow with the length of a file: whoever needs its chunks reads a part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Protocol

import orjson

from ingest.document import Chunk
from rag_backend.errors import StorageBroken

HELD = 512
"""Chunks of one file that are kept in memory; more go to disk."""
_BLOCK = 128


class Chunks(Collection[Chunk], Protocol):
    """The chunks of one file, in order. Synchronous; for one thread at a time."""

    @property
    def on_disk(self) -> bool:
        """Whether memory holds none of them."""
        ...

    def part(self, start: int, stop: int) -> Sequence[Chunk]:
        """Some of them; raises StorageBroken when they cannot be read any more."""
        ...

    def discard(self) -> None:
        """Nobody needs them any more."""
        ...


class Held(list[Chunk]):
    """Chunks in memory."""

    on_disk = False

    def part(self, start: int, stop: int) -> Sequence[Chunk]:
        """See Chunks."""
        return self[start:stop]

    def discard(self) -> None:
        """See Chunks."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """Chunks in a file of JSON lines, one a block; `bounds` are the lines' places in it."""

    path: Path
    size: int
    bounds: tuple[int, ...]

    on_disk = True

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Chunk]:
        for at in range(0, self.size, _BLOCK):
            yield from self.part(at, at + _BLOCK)

    def __contains__(self, chunk: object) -> bool:
        return any(chunk == mine for mine in self)

    def part(self, start: int, stop: int) -> Sequence[Chunk]:
        """See Chunks."""
        first, last = start // _BLOCK, -(-min(stop, self.size) // _BLOCK)
        try:
            with self.path.open("rb") as file:
                file.seek(self.bounds[first])
                lines = file.read(self.bounds[last] - self.bounds[first]).splitlines()
            found = [chunk for line in lines for chunk in from_rows(orjson.loads(line))]
        except (OSError, ValueError, IndexError, TypeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageBroken(
                f"What was read of a file cannot be read back from {self.path.parent}: {reason}. "
                "Ingest the file again."
            ) from error
        return found[start - first * _BLOCK : stop - first * _BLOCK]

    def discard(self) -> None:
        """See Chunks."""
        with suppress(OSError):  # what stays there is removed at the next start
            self.path.unlink()


def handed_over(chunks: Sequence[Chunk], path: Path | None) -> Chunks:
    """Short lists as they are, long ones written to `path`; raises OSError when that fails."""
    if path is None or len(chunks) <= HELD:
        return Held(chunks)
    bounds = [0]
    with path.open("wb") as file:
        for at in range(0, len(chunks), _BLOCK):
            rows = to_rows(chunks[at : at + _BLOCK])
            bounds.append(bounds[-1] + file.write(orjson.dumps(rows) + b"\n"))
    return Spooled(path, len(chunks), tuple(bounds))


def to_rows(chunks: Iterable[Chunk]) -> list[tuple[object, ...]]:
    """Chunks as what JSON can say."""
    return [astuple(chunk) for chunk in chunks]


def from_rows(rows: Iterable[Sequence[object]]) -> list[Chunk]:
    """What `to_rows` made; raises ValueError or TypeError for anything else."""
    return [_chunk(row) for row in rows]


def _chunk(row: Sequence[object]) -> Chunk:
    text, start, end, page, heading_path, question, answer = row
    return Chunk(text, start, end, page, tuple(heading_path), question, answer)  # type: ignore[arg-type]
