"""`POST /v1/embeddings`."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field, field_validator
from starlette.responses import Response

from llm_offline.api.body import Body, read_body
from llm_offline.api.openapi import takes
from llm_offline.api.replying import unless_gone
from llm_offline.encoding import Embeddings, Encoder, Encoding
from llm_offline.errors import BadRequest, UnsupportedFeature

router = APIRouter()

MOST_TEXTS = 2048  # OpenAI's limit

_WRITTEN = 16
"""Vectors that are written before others on the event loop have their turn: some milliseconds."""


class EmbeddingsBody(Body):
    """`POST /v1/embeddings`; token ids are not accepted, texts are."""

    input: str | list[str] = Field(description="A text, or up to 2048 of them")
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _no_tokens(cls, given: Any) -> Any:
        if isinstance(given, list) and given and isinstance(given[0], (int, list)):
            raise ValueError("texts: token ids are not accepted")
        return given

    @property
    def texts(self) -> list[str]:
        """The texts.

        Raises:
            BadRequest: None, too many, or an empty one.
        """
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not 1 <= len(texts) <= MOST_TEXTS:
            raise BadRequest(
                f"input has {len(texts)} texts; 1 to {MOST_TEXTS} are allowed", param="input"
            )
        for number, text in enumerate(texts):
            if not text.strip():
                which = "input" if isinstance(self.input, str) else f"input[{number}]"
                raise BadRequest(f"{which} is empty", param="input")
        return texts


def encoding_of(request: Request) -> Encoding:
    """The process's encoder."""
    encoding: Encoding = request.app.state.encoding
    return encoding


@router.post("/v1/embeddings", openapi_extra=takes(EmbeddingsBody))
async def embeddings(request: Request) -> Response:
    """A vector for each text; the encoder is loaded at the first request."""
    body = await read_body(request, EmbeddingsBody)
    texts = body.texts

    async def answer(encoder: Encoder) -> bytes:
        if body.dimensions not in (None, encoder.dimensions):
            raise UnsupportedFeature(
                f"dimensions={body.dimensions}: {encoder.name} gives {encoder.dimensions}",
                param="dimensions",
            )
        found = await encoder.encode(texts)
        return b"".join([piece async for piece in _written(found, body, encoder)])

    written = await unless_gone(request, encoding_of(request).use(answer))
    return Response(written, media_type="application/json")


async def _written(
    found: Embeddings, body: EmbeddingsBody, encoder: Encoder
) -> AsyncIterator[bytes]:
    """The answer's JSON, in pieces: as a whole, a million numbers would stop every stream.

    Beside OpenAI's fields it says how much the encoder reads, for whoever cuts texts for it.
    """
    yield b'{"object":"list","data":['
    write = _base64 if body.encoding_format == "base64" else _floats
    for number, vector in enumerate(found.vectors):
        if number % _WRITTEN == 0:
            await asyncio.sleep(0)
        comma = "," if number else ""
        row = f'{comma}{{"object":"embedding","index":{number},"embedding":{write(vector)}}}'
        yield row.encode("ascii")
    counted = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    told = {"model": encoder.name, "max_input_tokens": encoder.max_input_tokens, "usage": counted}
    yield f"],{json.dumps(told)[1:]}".encode()


def _base64(vector: bytes) -> str:
    """As OpenAI's SDKs ask for it unless told otherwise."""
    return f'"{base64.b64encode(vector).decode("ascii")}"'


def _floats(vector: bytes) -> str:
    """Nine digits are enough to tell all 32-bit floats apart."""
    count = len(vector) // 4
    numbers = struct.unpack(f"<{count}f", vector)
    return "[" + ",".join(["%.9g"] * count) % numbers + "]"
