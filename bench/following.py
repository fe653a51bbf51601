"""How soon a second backend finds what a first one has indexed, and stops showing what it deleted.

    python bench/following.py --url http://A:30000 --other http://B:30000 [--files 30] [--limit 2]

Both backends share one PostgreSQL and one Chroma server. Each file holds a word that is nowhere
else; the clock runs from the moment that the first backend says `completed` until the second one's
search puts the file first. All files are alike but for that word, of which an encoder knows
nothing, so the second backend's own word index must have it by then. There is no peer: none of
those that this project is compared with has replicas. The exit status is 1 when the slowest took
longer than `--limit` seconds.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Callable, Sequence

from openai import OpenAI

_PATIENCE = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and compare with the limit."""
    parser = argparse.ArgumentParser(description="visibility between two backends")
    parser.add_argument("--url", required=True, help="the backend that is given the files")
    parser.add_argument("--other", required=True, help="the backend that is asked")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--files", type=int, default=30)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds")
    given = parser.parse_args(arguments)
    with (
        OpenAI(base_url=f"{given.url}/v1", api_key=given.api_key, max_retries=0) as here,
        OpenAI(base_url=f"{given.other}/v1", api_key=given.api_key, max_retries=0) as there,
    ):
        store = here.vector_stores.create(name=f"following-{secrets.token_hex(4)}").id
        seen, gone = zip(
            *(one_file(here, there, store, number) for number in range(given.files)), strict=True
        )
        here.vector_stores.delete(store)
    for what, seconds in (
        ("completed here, first there", seen),
        ("deleted here, gone there", gone),
    ):
        ordered = sorted(seconds)
        middle = ordered[len(ordered) // 2]
        print(f"{what}: median {middle:.2f} s, slowest {ordered[-1]:.2f} s, {len(ordered)} files")
    return int(max(seen) > given.limit or max(gone) > given.limit)


def one_file(here: OpenAI, there: OpenAI, store: str, number: int) -> tuple[float, float]:
    """(seconds until a new file was found, seconds until it was gone)."""
    word = f"q{secrets.token_hex(5)}"
    text = f"Entry {number} of the register is called {word}."
    file = here.files.create(file=(f"{word}.md", text.encode()), purpose="user_data")
    here.vector_stores.files.create_and_poll(
        vector_store_id=store, file_id=file.id, poll_interval_ms=10
    )

    def found() -> bool:
        hits = there.vector_stores.search(store, query=word).data
        return bool(hits) and hits[0].file_id == file.id

    seen = until(found)
    here.files.delete(file.id)
    gone = until(lambda: not found())
    # It stays, so that the next one has company.
    again = here.files.create(file=(f"{word}.md", text.encode()), purpose="user_data")
    here.vector_stores.files.create_and_poll(
        vector_store_id=store, file_id=again.id, poll_interval_ms=10
    )
    return seen, gone


def until(condition: Callable[[], bool]) -> float:
    """Seconds until the condition was true."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() > begun + _PATIENCE:
            raise SystemExit("the other backend does not follow: do they share their servers?")
        time.sleep(0.01)
    return time.monotonic() - begun


if __name__ == "__main__":
    sys.exit(main())
