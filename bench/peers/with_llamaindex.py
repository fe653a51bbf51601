"""LlamaIndex as its documentation shows it: HuggingFaceEmbedding and ChromaVectorStore.

The texts are nodes already: its own splitter would make other chunks.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable

import chromadb
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.vector_stores.chroma import ChromaVectorStore
from timing import run


def prepare(folder: str) -> Callable[[list[str]], object]:
    """Embed and store, into a directory."""
    model = HuggingFaceEmbedding(model_name=folder)
    client = chromadb.PersistentClient(path=tempfile.mkdtemp())

    def work(texts: list[str]) -> object:
        collection = client.create_collection(f"bench-{uuid.uuid4().hex}")
        store = ChromaVectorStore(chroma_collection=collection)
        context = StorageContext.from_defaults(vector_store=store)
        nodes = [TextNode(text=text) for text in texts]
        return VectorStoreIndex(nodes, storage_context=context, embed_model=model)

    return work


run(
    [
        "llama-index-core",
        "llama-index-embeddings-huggingface",
        "llama-index-vector-stores-chroma",
        "chromadb",
        "torch",
    ],
    prepare,
)
