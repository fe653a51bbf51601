"""`POST /v1/embeddings`."""

from __future__ import annotations

import array
import asyncio
import base64
import sys
from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse

from llm_offline.api.body import Body, read_body
from llm_offline.api.openapi import takes
from llm_offline.errors import BadRequest, UnsupportedFeature
from llm_offline.lazy import Lazy

router = APIRouter()

MOST_TEXTS = 2048  # OpenAI's limit


class Embeddings(Protocol):
    """Vectors of some texts; `embedding.Embeddings` is one."""

    @property
    def vectors(self) -> list[list[float]]:
        """One vector a text."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        ...


class Encoder(Protocol):
    """Turns texts into vectors; `embedding.SentenceEncoder` is one."""

    name: str

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Vectors in the texts' order; raises `BadRequest` for a text that is too long."""
        ...


class EmbeddingsBody(Body):
    """`POST /v1/embeddings`; token ids are not accepted, texts are."""

    input: str | list[str] = Field(description="A text, or up to 2048 of them")
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None

    @property
    def texts(self) -> list[str]:
        """The texts.

        Raises:
            BadRequest: None, too many, or an empty one.
        """
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not 1 <= len(texts) <= MOST_TEXTS:
            raise BadRequest(f"input has {len(texts)} texts; 1 to {MOST_TEXTS} are allowed")
        if any(not text.strip() for text in texts):
            raise BadRequest("input has an empty text", param="input")
        return texts


@router.post("/v1/embeddings", openapi_extra=takes(EmbeddingsBody))
async def embeddings(request: Request) -> JSONResponse:
    """A vector for each text; the encoder is loaded at the first request."""
    body = await read_body(request, EmbeddingsBody)
    texts = body.texts
    lazy: Lazy[Encoder] = request.app.state.encoder
    encoder = await lazy.get()
    found = await asyncio.to_thread(encoder.encode, texts)
    if body.dimensions not in (None, len(found.vectors[0])):
        raise UnsupportedFeature(
            f"dimensions={body.dimensions}: {encoder.name} gives {len(found.vectors[0])}",
            param="dimensions",
        )
    data = [
        {
            "object": "embedding",
            "index": number,
            "embedding": base64_floats(vector) if body.encoding_format == "base64" else vector,
        }
        for number, vector in enumerate(found.vectors)
    ]
    counted = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    return JSONResponse({"object": "list", "data": data, "model": encoder.name, "usage": counted})


def base64_floats(vector: Sequence[float]) -> str:
    """Little-endian 32-bit floats in base64, which OpenAI's SDKs ask for unless told otherwise."""
    floats = array.array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode("ascii")
