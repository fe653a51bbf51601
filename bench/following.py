"""How soon a second backend finds what a first one has indexed, and stops showing what it deleted.

    python bench/following.py --url http://A:30000 --other http://B:30000 [--files 30] [--limit 2]

Both backends share one PostgreSQL and one Chroma server. Each file holds a word that is nowhere
else. Measured are, in this order: from the upload until the first backend says `completed`; from
there until the second one finds the file by its vectors (asked with other words, and a filter that
only this file passes), and until it puts the file first when asked for its word (all files are
alike but for that word, so its own word index must have it by then); how long one of these searches
took by itself; and from the deletion until the second backend shows it no more.

Everything is measured twice: while nothing else happens, and while the first backend indexes other
files, which are uploaded to the same store as fast as it takes them (`--load` of them wait at any
time). There is no peer: none of those that this project is compared with has replicas. The exit
status is 1 when something took longer than `--limit` seconds to be found, or to be gone.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from openai import OpenAI

_PATIENCE = 120.0
_WORDS = 3000
"""In each of the files that are uploaded meanwhile: some twenty chunks."""
_COMPANY = 5
"""Files like the measured ones that are there from the beginning."""


_NOUNS = (
    "river stone market letter garden bridge winter table music paper window doctor island train "
    "forest engine school bottle harbour castle story money summer kitchen mountain answer"
).split()


class Seen(NamedTuple):
    """Seconds, of one file; `search` is the last search that was needed to find it."""

    completed: float
    by_vectors: float
    by_words: float
    search: float
    gone: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and compare with the limit."""
    parser = argparse.ArgumentParser(description="visibility between two backends")
    parser.add_argument("--url", required=True, help="the backend that is given the files")
    parser.add_argument("--other", required=True, help="the backend that is asked")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--files", type=int, default=30)
    parser.add_argument("--load", type=int, default=10, help="files on their way meanwhile")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds")
    given = parser.parse_args(arguments)
    slowest = 0.0
    with (
        OpenAI(base_url=f"{given.url}/v1", api_key=given.api_key, max_retries=0) as here,
        OpenAI(base_url=f"{given.other}/v1", api_key=given.api_key, max_retries=0) as there,
    ):
        store = here.vector_stores.create(name=f"following-{secrets.token_hex(4)}").id
        for number in range(_COMPANY):
            _put(here, store, f"q{secrets.token_hex(5)}", number)
        for load in [0, given.load] if given.load else [0]:
            with ingesting(here, store, load) if load else nullcontext():
                seen = [one_file(here, there, store, number) for number in range(given.files)]
            slowest = max(slowest, printed("ingesting" if load else "idle", seen))
        here.vector_stores.delete(store)
    return int(slowest > given.limit)


def printed(what: str, seen: Sequence[Seen]) -> float:
    """Print the distributions; the slowest of what has a limit."""
    print(f"{what}, {len(seen)} files, seconds:   p50   p95   max")
    for label, seconds in (
        ("uploaded → completed", [one.completed for one in seen]),
        ("completed → found there by its vectors", [one.by_vectors for one in seen]),
        ("completed → found there by its word", [one.by_words for one in seen]),
        ("one search there, by itself", [one.search for one in seen]),
        ("deleted → gone there", [one.gone for one in seen]),
    ):
        ordered = sorted(seconds)
        p50, p95 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.95))
        print(f"  {label:<40} {p50:5.2f} {p95:5.2f} {ordered[-1]:5.2f}")
    return max(max(one.by_vectors, one.by_words, one.gone) for one in seen)


def one_file(here: OpenAI, there: OpenAI, store: str, number: int) -> Seen:
    """Put a file in, look for it, and take it out."""
    word = f"q{secrets.token_hex(5)}"
    begun = time.monotonic()
    file_id = _put(here, store, word, number)
    completed = time.monotonic()
    took: list[float] = []

    def found(query: str, **others: object) -> bool:
        asked = time.monotonic()
        hits = there.vector_stores.search(store, query=query, **others).data  # type: ignore[arg-type]
        took.append(time.monotonic() - asked)
        return bool(hits) and hits[0].file_id == file_id

    only = {"type": "eq", "key": "word", "value": word}
    until(lambda: found("lists and names", filters=only))
    by_vectors = time.monotonic()
    until(lambda: found(word))
    by_words = time.monotonic()
    here.files.delete(file_id)
    deleted = time.monotonic()
    until(lambda: not found(word))
    gone = time.monotonic()
    return Seen(
        completed - begun, by_vectors - completed, by_words - completed, took[-2], gone - deleted
    )


def _put(here: OpenAI, store: str, word: str, number: int) -> str:
    """Upload and index a file; its id."""
    text = f"Entry {number} of the register is called {word}."
    file = here.files.create(file=(f"{word}.md", text.encode()), purpose="user_data")
    done = here.vector_stores.files.create(
        vector_store_id=store, file_id=file.id, attributes={"word": word}
    )

    def completed() -> bool:
        nonlocal done
        done = here.vector_stores.files.retrieve(file.id, vector_store_id=store)
        return done.status != "in_progress"

    until(completed)
    if done.status != "completed":
        raise SystemExit(f"the file was not indexed: {done.last_error}")
    return file.id


@contextmanager
def ingesting(client: OpenAI, store: str, most: int) -> Iterator[None]:
    """Other files are put into the store all the time, `most` of them on their way at once."""
    ended = threading.Event()
    sent = 0

    def send() -> None:
        nonlocal sent
        moves = random.Random(0)
        while not ended.is_set():
            counts = client.vector_stores.retrieve(store).file_counts
            for _ in range(most - counts.in_progress):
                text = " ".join(moves.choice(_NOUNS) + "." * (n % 12 == 11) for n in range(_WORDS))
                name = f"load-{sent}.md"
                file = client.files.create(file=(name, text.encode()), purpose="user_data")
                client.vector_stores.files.create(vector_store_id=store, file_id=file.id)
                sent += 1
            ended.wait(0.1)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        until(lambda: client.vector_stores.retrieve(store).file_counts.in_progress >= most // 2)
        yield
    finally:
        ended.set()
        thread.join()
    counts = client.vector_stores.retrieve(store).file_counts
    print(f"(of {sent} other files {sent - counts.in_progress} were indexed meanwhile)")


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() > begun + _PATIENCE:
            raise SystemExit("the other backend does not follow: do they share their servers?")
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
