"""`POST /v1/embeddings`: the encoder that indexes the documents."""

from __future__ import annotations

import base64

from fastapi import APIRouter, Depends

from rag_backend.api.document import EVERYWHERE, fails
from rag_backend.api.parts import Backend
from rag_backend.api.rights import calling
from rag_backend.api.schemas import EmbeddingBody
from rag_backend.api.shapes import EmbeddingList
from rag_backend.api.strict import StrictRoute
from rag_backend.errors import BadRequest, UnsupportedFeature
from rag_backend.llm.streams import estimate_tokens

router = APIRouter(
    route_class=StrictRoute, responses=EVERYWHERE | fails(400, 413, 429, 502, 503, 504)
)


@router.post("/v1/embeddings", dependencies=[Depends(calling)])  # any key may
async def create_embeddings(body: EmbeddingBody, backend: Backend) -> EmbeddingList:
    """Unit vectors of texts, as floats or as base64 of little-endian float32."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not all(text.strip() for text in texts):
        raise BadRequest("`input` has an empty text.", param="input")
    encoder = await backend.encoder.get()
    size = len(encoder.probe) // 4  # of float32
    if body.dimensions not in (None, size):
        raise UnsupportedFeature(
            f"`dimensions` must be {size}, this encoder's own.", param="dimensions"
        )
    vectors = await backend.encoder.embed(texts)
    packed = body.encoding_format == "base64"
    tokens = sum(estimate_tokens(text) for text in texts)
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if packed
                else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ],
        "model": encoder.embedding.model_id,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
