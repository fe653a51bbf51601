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
        add_start_index=True,
    )
    parts = splitter.create_documents([asked["text"]])
    spans = []
    for part in parts:
        start = part.metadata["start_index"]
        spans.append([start, start + len(part.page_content)])
    json.dump(spans, sys.stdout)


if __name__ == "__main__":
    main()
