"""Fixed sentences of the house, in the question's language."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from rag_backend.llm.provider import Chunk
from rag_backend.llm.streams import estimate_tokens

NOTHING_FOUND: Mapping[str, str] = {
    "en": "I found nothing about this in the documents, so I will not guess. "
    "Try other words, or add a document that covers it.",
    "vi": "Tôi không tìm thấy thông tin về việc này trong tài liệu, nên tôi sẽ không đoán. "
    "Hãy thử dùng từ khác, hoặc bổ sung tài liệu có nội dung này.",
}


async def fixed_reply(text: str, provider: str) -> AsyncGenerator[Chunk, None]:
    """A text that needs no model, as a provider would have streamed it."""
    tokens = estimate_tokens(text)
    usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
    for delta, finish in (({"content": text}, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        yield {"model": provider, "provider": provider, "choices": [choice]}
    yield {"model": provider, "provider": provider, "choices": [], "usage": usage}
