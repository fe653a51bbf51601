"""LangChain as its documentation shows it: HuggingFaceEmbeddings, then Chroma.from_texts."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable

from langchain_chroma import Chroma
from langchain_huggingface import HuggingFaceEmbeddings
from timing import run


def prepare(folder: str) -> Callable[[list[str]], object]:
    """Embed and store, into a directory."""
    embeddings = HuggingFaceEmbeddings(model_name=folder)
    directory = tempfile.mkdtemp()

    def work(texts: list[str]) -> object:
        name = f"bench-{uuid.uuid4().hex}"
        return Chroma.from_texts(
            texts, embeddings, collection_name=name, persist_directory=directory
        )

    return work


run(["langchain-core", "langchain-chroma", "langchain-huggingface", "chromadb", "torch"], prepare)
