"""LangChain's RecursiveCharacterTextSplitter: JSON in, character spans out.

Runs in `bench/peers/.venv`, where this project is not installed. Reads {"text", "tokenizer" (a
tokenizer.json), "size", "overlap"} (in tokens) and prints [[start, end], ...].
"""

from __future__ import annotations

import json
import sys

from langchain_text_splitters import RecursiveCharacterTextSplitter
from tokenizers import Tokenizer


def main() -> None:
    """The command."""
    asked = json.load(sys.stdin)
    tokenizer = Tokenizer.from_file(asked["tokenizer"])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=asked["size"],
        chunk_overlap=asked["overlap"],
        length_function=lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids),
    )
    # Its own `add_start_index` mixes tokens with characters where the overlap is in tokens.
    spans: list[tuple[int, int]] = []
    start = -1
    for part in splitter.split_text(asked["text"]):
        start = asked["text"].index(part, start + 1)
        spans.append((start, start + len(part)))
    json.dump(spans, sys.stdout)


if __name__ == "__main__":
    main()
